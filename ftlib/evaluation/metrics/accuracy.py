"""Share of rows whose most probable label is right."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from ftlib.config import BatchKind
from ftlib.evaluation.metrics.base import ShareOfRight
from ftlib.kinds.outcomes import LabelOutcomes

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Bool


class Accuracy(ShareOfRight):
    """Accuracy, between 0 and 1."""

    kind: Literal["accuracy"] = "accuracy"

    reads: ClassVar[frozenset[BatchKind]] = frozenset({"labeled"})
    higher_is_better: ClassVar[bool] = True

    def right(self, outcomes: LabelOutcomes) -> Bool[np.ndarray, " rows"]:
        """Return which rows are right."""
        return outcomes.gold == outcomes.predicted
