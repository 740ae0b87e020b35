"""Brier score."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from ftlib.config import BatchKind
from ftlib.evaluation.metrics.base import MeanOverRows
from ftlib.kinds.outcomes import ComparedOutcomes, LabelOutcomes

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float


class Brier(MeanOverRows):
    """Mean squared distance of the probabilities from the truth (Brier 1950), summed over labels: between 0 and 2.

    With two labels, or two texts of which one is better, it is half of that sum, as usual: between 0 and 1.
    """

    kind: Literal["brier"] = "brier"

    reads: ClassVar[frozenset[BatchKind]] = frozenset({"labeled", "compared"})
    higher_is_better: ClassVar[bool] = False

    def per_row(self, outcomes: LabelOutcomes | ComparedOutcomes) -> Float[np.ndarray, " rows"]:
        """Return every row's own."""
        import numpy as np

        # Not scikit-learn's function, though it agrees: it refuses probabilities that float32 lets sum to 1 + 1e-6.
        probabilities = outcomes.probabilities.astype(np.float64)
        truth = np.eye(len(outcomes.labels))[outcomes.gold]
        return ((probabilities - truth) ** 2).sum(axis=1) / (2 if len(outcomes.labels) == 2 else 1)
