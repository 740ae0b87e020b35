"""What is solved for and takes no steps: linear probes and zero-shot heads, on features that are computed once."""
