"""Mean distance from the score."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from ftlib.config import BatchKind
from ftlib.evaluation.metrics.base import MeanOverRows
from ftlib.kinds.outcomes import ScoreOutcomes

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float


class MeanAbsoluteError(MeanOverRows):
    """Mean absolute error, in the score's own unit."""

    kind: Literal["mean_absolute_error"] = "mean_absolute_error"

    reads: ClassVar[frozenset[BatchKind]] = frozenset({"scored"})
    higher_is_better: ClassVar[bool] = False

    def per_row(self, outcomes: ScoreOutcomes) -> Float[np.ndarray, " rows"]:
        """Return every row's own."""
        return abs(outcomes.predicted - outcomes.gold)
