"""What models say about rows, in numbers with intervals, and the rules that choose by them."""
