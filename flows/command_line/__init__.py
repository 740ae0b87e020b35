"""The command line `reglage`, one file a command."""
