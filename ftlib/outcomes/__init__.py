"""The per-example table: what a model said about every row. Every metric, interval and slice is a function of it."""

from ftlib.outcomes.base import Outcomes
from ftlib.outcomes.completions import CompletionOutcomes
from ftlib.outcomes.labels import LabelOutcomes
from ftlib.outcomes.table_file import read_outcomes, tables_in
from ftlib.outcomes.tagged import TaggedOutcomes
from ftlib.outcomes.tokens import TokenOutcomes

__all__ = [
    "CompletionOutcomes",
    "LabelOutcomes",
    "Outcomes",
    "TaggedOutcomes",
    "TokenOutcomes",
    "read_outcomes",
    "tables_in",
]
