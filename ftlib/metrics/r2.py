"""Coefficient of determination."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ftlib.metrics.correlations import OfScores, centred
from ftlib.outcomes import ScoreOutcomes

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float, Int


class R2(OfScores):
    """Share of the scores' variance that the answers explain: 1 is all of it, 0 is what their mean does, less is worse.

    Where the scores are all the same, 1 if every answer is right and 0 otherwise, as scikit-learn has it.
    """

    kind: Literal["r2"] = "r2"

    def resampled(
        self, outcomes: ScoreOutcomes, rows: Int[np.ndarray, "resamples rows"]
    ) -> Float[np.ndarray, " resamples"]:
        """Return `compute` of every resample."""
        import numpy as np

        errors = ((outcomes.gold - outcomes.predicted) ** 2)[rows].sum(axis=1)
        spread = (centred(outcomes.gold[rows]) ** 2).sum(axis=1)
        unexplained = np.divide(errors, spread, out=(errors > 0).astype(np.float64), where=spread > 0)
        return 1.0 - unexplained
