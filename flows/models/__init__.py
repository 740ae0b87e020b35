"""Finished models: where they are, compared, merged, adopted as versions."""
