"""Share of words whose tag is right."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from ftlib.config import BatchKind
from ftlib.metrics.base import MetricBase
from ftlib.outcomes import TaggedOutcomes

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float, Int


class TagAccuracy(MetricBase):
    """Accuracy over words. Most words are `O`, so saying nothing scores high: read `entity_f1` first."""

    kind: Literal["tag_accuracy"] = "tag_accuracy"

    reads: ClassVar[frozenset[BatchKind]] = frozenset({"tagged"})
    higher_is_better: ClassVar[bool] = True

    def compute(self, outcomes: TaggedOutcomes) -> float:
        """Return the metric over all rows."""
        right, words = outcomes.words
        return float(right.sum() / max(1, words.sum()))

    def resampled(
        self, outcomes: TaggedOutcomes, rows: Int[np.ndarray, "resamples rows"]
    ) -> Float[np.ndarray, " resamples"]:
        """Return `compute` of every resample."""
        right, words = outcomes.words
        return right[rows].sum(axis=1) / words[rows].sum(axis=1).clip(min=1)
