"""F1 of one label."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from ftlib.config import BatchKind
from ftlib.metrics.base import OfLabel
from ftlib.metrics.label_counts import LabelCounts, position
from ftlib.outcomes import Outcomes

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float, Int


class F1(OfLabel):
    """Harmonic mean of one label's precision and recall; 0 where both are."""

    kind: Literal["f1"] = "f1"

    needs: ClassVar[BatchKind] = "labeled"
    higher_is_better: ClassVar[bool] = True

    def compute(self, outcomes: Outcomes) -> float:
        """Return the metric over all rows. Raises DataError if the model has no such label."""
        from sklearn.metrics import f1_score

        label = position(outcomes, self.label)
        zero = cast(Any, 0.0)  # scikit-learn's own annotation forgets that numbers are allowed
        return float(f1_score(outcomes.gold == label, outcomes.predicted == label, zero_division=zero))

    def resampled(self, outcomes: Outcomes, rows: Int[np.ndarray, "resamples rows"]) -> Float[np.ndarray, " resamples"]:
        """Return `compute` of every resample."""
        return LabelCounts.of(outcomes, rows).f1()[:, position(outcomes, self.label)]
