"""What runs: whole pipelines, one screen each, and the command line."""
