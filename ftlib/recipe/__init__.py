"""A run in two values: what is asked (`Recipe`) and what was found (`Evidence`)."""
