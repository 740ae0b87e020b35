"""What runs on Ray: training, and measuring on more than one worker. No other module knows Ray."""

import os

# Ray reads this once, when it is imported. Without it a local Ray opens a dozen ports on every interface; with it the
# node's address is this machine's loopback, also on Linux. A driver that joins a cluster (RAY_ADDRESS) is left alone.
if "RAY_ADDRESS" not in os.environ:
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
