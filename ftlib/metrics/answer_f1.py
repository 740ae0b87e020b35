"""Words that an answer shares with the right one."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from ftlib.config import BatchKind
from ftlib.metrics.base import MetricBase
from ftlib.outcomes import SpanOutcomes

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float, Int


class AnswerF1(MetricBase):
    """SQuAD's F1, between 0 and 1: the mean over questions of the word overlap with the nearest right answer."""

    kind: Literal["answer_f1"] = "answer_f1"

    reads: ClassVar[frozenset[BatchKind]] = frozenset({"spans"})
    higher_is_better: ClassVar[bool] = True

    def compute(self, outcomes: SpanOutcomes) -> float:
        """Return the metric over all rows."""
        return float(outcomes.overlap.mean())

    def resampled(
        self, outcomes: SpanOutcomes, rows: Int[np.ndarray, "resamples rows"]
    ) -> Float[np.ndarray, " resamples"]:
        """Return `compute` of every resample."""
        return outcomes.overlap[rows].mean(axis=1)
