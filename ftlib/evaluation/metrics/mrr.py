"""How high texts are found."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from ftlib.config import BatchKind
from ftlib.evaluation.metrics.base import MeanOverRows
from ftlib.kinds.outcomes import RetrievalOutcomes

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float


class MRR(MeanOverRows):
    """Mean reciprocal rank of each anchor's text in the corpus."""

    kind: Literal["mrr"] = "mrr"

    reads: ClassVar[frozenset[BatchKind]] = frozenset({"retrieved"})
    higher_is_better: ClassVar[bool] = True

    def per_row(self, outcomes: RetrievalOutcomes) -> Float[np.ndarray, " rows"]:
        """Return every row's own."""
        return 1.0 / outcomes.rank
