"""Share of pairs whose better text scores higher."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from ftlib.config import BatchKind
from ftlib.evaluation.metrics.base import ShareOfRight
from ftlib.kinds.outcomes import ComparedOutcomes

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Bool


class PairAccuracy(ShareOfRight):
    """Share of pairs whose better text scores higher, between 0 and 1; guessing has 0.5. Equal scores are wrong.

    The intervals take rows for independent: pairs that share a text are not, and make them too narrow.
    """

    kind: Literal["pair_accuracy"] = "pair_accuracy"

    reads: ClassVar[frozenset[BatchKind]] = frozenset({"compared"})
    higher_is_better: ClassVar[bool] = True

    def right(self, outcomes: ComparedOutcomes) -> Bool[np.ndarray, " rows"]:
        """Return which rows are right."""
        return outcomes.right
