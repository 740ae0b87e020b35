"""Spearman's correlation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ftlib.evaluation.metrics.correlations import Correlation, correlation
from ftlib.kinds.outcomes import ScoreOutcomes

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float, Int


class Spearman(Correlation):
    """Correlation of the ranks of answers and scores, ties sharing theirs; undefined where either are all the same."""

    kind: Literal["spearman"] = "spearman"

    def resampled(
        self, outcomes: ScoreOutcomes, rows: Int[np.ndarray, "resamples rows"]
    ) -> Float[np.ndarray, " resamples"]:
        """Return `compute` of every resample, ranked anew: a row that was drawn twice ties with itself."""
        from scipy.stats import rankdata

        return correlation(rankdata(outcomes.gold[rows], axis=1), rankdata(outcomes.predicted[rows], axis=1))
