"""Mean negative log-likelihood of the right label."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from ftlib.config import BatchKind
from ftlib.metrics.base import MetricBase
from ftlib.outcomes import LabelOutcomes

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float, Int


class LogLoss(MetricBase):
    """Mean negative log-likelihood, in nats.

    Taken from the logits in float64. scikit-learn's `log_loss` agrees until it clips: it reads probabilities, where
    float32 ends at 1e-7, and so never sees a confident error cost more than 16 nats.
    """

    kind: Literal["log_loss"] = "log_loss"

    reads: ClassVar[frozenset[BatchKind]] = frozenset({"labeled"})
    higher_is_better: ClassVar[bool] = False

    def compute(self, outcomes: LabelOutcomes) -> float:
        """Return the metric over all rows."""
        return float(outcomes.nll.mean())

    def resampled(
        self, outcomes: LabelOutcomes, rows: Int[np.ndarray, "resamples rows"]
    ) -> Float[np.ndarray, " resamples"]:
        """Return `compute` of every resample."""
        return outcomes.nll[rows].mean(axis=1)
