"""Coefficient of determination."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from typing_extensions import override

from ftlib.evaluation.metrics.correlations import OfScores, centred
from ftlib.evaluation.metrics.draws import share
from ftlib.kinds.outcomes import ScoreOutcomes

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float, Int


class R2(OfScores):
    """Share of the scores' variance that the answers explain: 1 is all of it, 0 is what their mean does, less is worse.

    Undefined where the scores are all the same, as for one row: there is no variance to explain.
    """

    kind: Literal["r2"] = "r2"

    @property
    @override
    def undefined_where(self) -> str:
        return "all rows have the same score"

    def resampled(
        self, outcomes: ScoreOutcomes, rows: Int[np.ndarray, "resamples rows"]
    ) -> Float[np.ndarray, " resamples"]:
        """Return `compute` of every resample."""
        errors = ((outcomes.gold - outcomes.predicted) ** 2)[rows].sum(axis=1)
        spread = (centred(outcomes.gold[rows]) ** 2).sum(axis=1)
        return 1.0 - share(errors, spread)
