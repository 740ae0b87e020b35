"""The per-example table: what a model said about every row. Every metric, interval and slice is a function of it."""

from ftlib.outcomes.base import Outcomes, joined
from ftlib.outcomes.completions import CompletionOutcomes
from ftlib.outcomes.labels import LabelOutcomes
from ftlib.outcomes.multi_labels import MultiLabelOutcomes
from ftlib.outcomes.scores import ScoreOutcomes
from ftlib.outcomes.spans import SpanOutcomes
from ftlib.outcomes.table_file import parse_outcomes, read_outcomes, tables_in
from ftlib.outcomes.tagged import TaggedOutcomes
from ftlib.outcomes.tokens import TokenOutcomes

__all__ = [
    "CompletionOutcomes",
    "LabelOutcomes",
    "MultiLabelOutcomes",
    "Outcomes",
    "ScoreOutcomes",
    "SpanOutcomes",
    "TaggedOutcomes",
    "TokenOutcomes",
    "joined",
    "parse_outcomes",
    "read_outcomes",
    "tables_in",
]
