"""Points between checkpoints: which ones (`interpolation/`), how (`methods/`), and the engine that writes them."""
