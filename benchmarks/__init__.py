"""What the product promises in numbers, measured: `python -m benchmarks.<name>`.

Every benchmark compares within one run, in fresh processes whose repetitions are interleaved, and reports medians:
seconds differ from machine to machine, ratios far less. The last line of its output is one JSON object.
"""
