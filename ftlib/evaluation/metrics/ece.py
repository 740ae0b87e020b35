"""Expected calibration error."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from ftlib.config import BatchKind
from ftlib.evaluation.metrics.base import MetricBase
from ftlib.kinds.outcomes import ComparedOutcomes, LabelOutcomes

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float, Int


class ECE(MetricBase):
    """How far confidence and accuracy are apart (Guo et al. 2017, arXiv 1706.04599).

    Rows are binned by the probability of their predicted label; the mean over bins of |accuracy - mean confidence|,
    each weighted by its rows. It cannot be 0 on few rows: a perfectly calibrated model has about 0.09 on 200 rows and
    0.02 on 5,000, and resampling adds as much again, so an interval may lie wholly above the value. Compare models on
    the same rows, and look at `brier` or `log_loss` beside it.
    """

    kind: Literal["ece"] = "ece"
    bins: int = Field(default=15, ge=2)
    """Of equal width between 0 and 1; a bin holds its upper edge."""

    reads: ClassVar[frozenset[BatchKind]] = frozenset({"labeled", "compared"})
    higher_is_better: ClassVar[bool] = False

    def resampled(
        self, outcomes: LabelOutcomes | ComparedOutcomes, rows: Int[np.ndarray, "resamples rows"]
    ) -> Float[np.ndarray, " resamples"]:
        """Return `compute` of every resample."""
        import numpy as np

        confidence, right = confidences(outcomes)
        where = bin_of(confidence, self.bins)
        flat = where[rows] + self.bins * np.arange(len(rows))[:, None]
        gaps = np.bincount(flat.ravel(), (right - confidence)[rows].ravel(), self.bins * len(rows))
        return np.abs(gaps).reshape(-1, self.bins).sum(axis=1) / rows.shape[1]


def confidences(
    outcomes: LabelOutcomes | ComparedOutcomes,
) -> tuple[Float[np.ndarray, " rows"], Float[np.ndarray, " rows"]]:
    """Return the probability of each row's predicted label, and 1 where it is right."""
    import numpy as np

    confidence = outcomes.probabilities.max(axis=1).astype(np.float64)
    return confidence, (outcomes.gold == outcomes.predicted).astype(np.float64)


def bin_of(confidence: Float[np.ndarray, " rows"], bins: int) -> Int[np.ndarray, " rows"]:
    """Return each row's bin, from 0."""
    import numpy as np

    return np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
