"""Share of rows whose labels are all right."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from ftlib.config import BatchKind
from ftlib.evaluation.metrics.base import ShareOfRight
from ftlib.kinds.outcomes import MultiLabelOutcomes

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Bool


class SubsetAccuracy(ShareOfRight):
    """Share of rows that get exactly their labels, none more and none less; between 0 and 1."""

    kind: Literal["subset_accuracy"] = "subset_accuracy"

    reads: ClassVar[frozenset[BatchKind]] = frozenset({"multi_labeled"})
    higher_is_better: ClassVar[bool] = True

    def right(self, outcomes: MultiLabelOutcomes) -> Bool[np.ndarray, " rows"]:
        """Return which rows are right."""
        return (outcomes.gold == outcomes.predicted).all(axis=1)
