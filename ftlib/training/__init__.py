"""The training loop and what it runs on; the only package that imports torch at the top."""
