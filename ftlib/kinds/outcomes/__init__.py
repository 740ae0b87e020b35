"""The per-example table: what a model said about every row. Every metric, interval and slice is a function of it."""

from ftlib.kinds.outcomes.base import Outcomes, joined
from ftlib.kinds.outcomes.boxes import BoxOutcomes
from ftlib.kinds.outcomes.compared import ComparedOutcomes
from ftlib.kinds.outcomes.completions import CompletionOutcomes
from ftlib.kinds.outcomes.denoised import DenoisedOutcomes
from ftlib.kinds.outcomes.judged import JudgedOutcomes
from ftlib.kinds.outcomes.labels import LabelOutcomes
from ftlib.kinds.outcomes.masked import MaskedOutcomes
from ftlib.kinds.outcomes.multi_labels import MultiLabelOutcomes
from ftlib.kinds.outcomes.preferences import PreferenceOutcomes
from ftlib.kinds.outcomes.retrieved import RetrievalOutcomes
from ftlib.kinds.outcomes.scores import ScoreOutcomes
from ftlib.kinds.outcomes.spans import SpanOutcomes
from ftlib.kinds.outcomes.tagged import TaggedOutcomes
from ftlib.kinds.outcomes.tokens import TokenOutcomes

__all__ = [
    "BoxOutcomes",
    "ComparedOutcomes",
    "CompletionOutcomes",
    "DenoisedOutcomes",
    "JudgedOutcomes",
    "LabelOutcomes",
    "MaskedOutcomes",
    "MultiLabelOutcomes",
    "Outcomes",
    "PreferenceOutcomes",
    "RetrievalOutcomes",
    "ScoreOutcomes",
    "SpanOutcomes",
    "TaggedOutcomes",
    "TokenOutcomes",
    "joined",
]
