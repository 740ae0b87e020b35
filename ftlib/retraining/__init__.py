"""Whether fresh data is worth a training, and whether its result replaces the champion."""
