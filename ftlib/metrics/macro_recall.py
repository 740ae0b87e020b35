"""Recall averaged over labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from ftlib.config import BatchKind
from ftlib.metrics.base import MetricBase
from ftlib.metrics.label_counts import LabelCounts
from ftlib.outcomes import Outcomes

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float, Int


class MacroRecall(MetricBase):
    """The unweighted mean of every label's recall, over the labels that occur: balanced accuracy."""

    kind: Literal["macro_recall"] = "macro_recall"

    needs: ClassVar[BatchKind] = "labeled"
    higher_is_better: ClassVar[bool] = True

    def compute(self, outcomes: Outcomes) -> float:
        """Return the metric over all rows."""
        import numpy as np
        from sklearn.metrics import recall_score

        occurring = np.unique(outcomes.gold)
        zero = cast(Any, 0.0)  # scikit-learn's own annotation forgets that numbers are allowed
        return float(
            recall_score(outcomes.gold, outcomes.predicted, labels=occurring, average="macro", zero_division=zero)
        )

    def resampled(self, outcomes: Outcomes, rows: Int[np.ndarray, "resamples rows"]) -> Float[np.ndarray, " resamples"]:
        """Return `compute` of every resample."""
        counts = LabelCounts.of(outcomes, rows)
        return counts.mean(counts.recall())
