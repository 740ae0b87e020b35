"""Mean squared distance from the score."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from ftlib.config import BatchKind
from ftlib.evaluation.metrics.base import MeanOverRows
from ftlib.kinds.outcomes import ScoreOutcomes

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float


class MeanSquaredError(MeanOverRows):
    """Mean squared error, in the square of the score's unit: one large error costs more than many small ones."""

    kind: Literal["mean_squared_error"] = "mean_squared_error"

    reads: ClassVar[frozenset[BatchKind]] = frozenset({"scored"})
    higher_is_better: ClassVar[bool] = False

    def per_row(self, outcomes: ScoreOutcomes) -> Float[np.ndarray, " rows"]:
        """Return every row's own."""
        return (outcomes.predicted - outcomes.gold) ** 2
