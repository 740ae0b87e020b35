"""The rows of the table of kinds, by what answers them; `ftlib.kinds.kind` joins them."""
