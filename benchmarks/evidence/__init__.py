"""What every technique has to show, on real data: a claim, how it is measured, and what came out for every seed.

A row is one file of `rows/`: a claim, the arms that are compared, and the effect that was published. A result is one
file of `results/` for a row and a seed, failures too; `python -m benchmarks.evidence` runs the ones that are missing
and writes docs/evidence.md of them. Nothing is ever tuned on the rows that are reported: they are the test split's.
"""
