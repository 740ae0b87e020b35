"""Share of questions whose answer is right."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from ftlib.config import BatchKind
from ftlib.metrics.base import MetricBase
from ftlib.outcomes import SpanOutcomes

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Bool, Float, Int


class AnswerExactMatch(MetricBase):
    """SQuAD's exact match, between 0 and 1: case, punctuation, articles and white space aside."""

    kind: Literal["answer_exact_match"] = "answer_exact_match"

    reads: ClassVar[frozenset[BatchKind]] = frozenset({"spans"})
    higher_is_better: ClassVar[bool] = True

    def compute(self, outcomes: SpanOutcomes) -> float:
        """Return the metric over all rows."""
        return float(outcomes.right.mean())

    def resampled(
        self, outcomes: SpanOutcomes, rows: Int[np.ndarray, "resamples rows"]
    ) -> Float[np.ndarray, " resamples"]:
        """Return `compute` of every resample."""
        return outcomes.right[rows].mean(axis=1)

    def right(self, outcomes: SpanOutcomes) -> Bool[np.ndarray, " rows"]:
        """Return which rows are right."""
        return outcomes.right
