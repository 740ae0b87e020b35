"""Share of wrong yes and no."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from ftlib.config import BatchKind
from ftlib.evaluation.metrics.base import MeanOverRows
from ftlib.kinds.outcomes import MultiLabelOutcomes

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float


class HammingLoss(MeanOverRows):
    """Share of rows x labels where the model says yes for no, or no for yes. Rare labels alone make it small."""

    kind: Literal["hamming_loss"] = "hamming_loss"

    reads: ClassVar[frozenset[BatchKind]] = frozenset({"multi_labeled"})
    higher_is_better: ClassVar[bool] = False

    def per_row(self, outcomes: MultiLabelOutcomes) -> Float[np.ndarray, " rows"]:
        """Return every row's own."""
        return (outcomes.gold != outcomes.predicted).mean(axis=1)
