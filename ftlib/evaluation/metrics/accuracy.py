"""Share of rows whose most probable label is right."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from ftlib.config import BatchKind
from ftlib.evaluation.metrics.base import MetricBase
from ftlib.kinds.outcomes import LabelOutcomes

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Bool, Float, Int


class Accuracy(MetricBase):
    """Accuracy, between 0 and 1."""

    kind: Literal["accuracy"] = "accuracy"

    reads: ClassVar[frozenset[BatchKind]] = frozenset({"labeled"})
    higher_is_better: ClassVar[bool] = True

    def compute(self, outcomes: LabelOutcomes) -> float:
        """Return the metric over all rows."""
        from sklearn.metrics import accuracy_score

        return float(accuracy_score(outcomes.gold, outcomes.predicted))

    def resampled(
        self, outcomes: LabelOutcomes, rows: Int[np.ndarray, "resamples rows"]
    ) -> Float[np.ndarray, " resamples"]:
        """Return `compute` of every resample."""
        return self.right(outcomes)[rows].mean(axis=1)

    def right(self, outcomes: LabelOutcomes) -> Bool[np.ndarray, " rows"]:
        """Return which rows are right."""
        return outcomes.gold == outcomes.predicted
