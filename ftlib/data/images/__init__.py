"""Images in rows: a cell holds the file's own bytes as a data URI, and Pillow decodes them here and nowhere else."""
