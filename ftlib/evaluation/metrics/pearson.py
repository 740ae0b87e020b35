"""Pearson's correlation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ftlib.evaluation.metrics.correlations import Correlation, correlation
from ftlib.kinds.outcomes import ScoreOutcomes

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float, Int


class Pearson(Correlation):
    """Linear correlation of answers and scores, -1 to 1; blind to shift and scale. Undefined where either are equal."""

    kind: Literal["pearson"] = "pearson"

    def resampled(
        self, outcomes: ScoreOutcomes, rows: Int[np.ndarray, "resamples rows"]
    ) -> Float[np.ndarray, " resamples"]:
        """Return `compute` of every resample."""
        return correlation(outcomes.gold[rows], outcomes.predicted[rows])
