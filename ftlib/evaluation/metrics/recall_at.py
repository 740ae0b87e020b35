"""How often a text is among the first that are found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from typing_extensions import override

from ftlib.evaluation.metrics.among_first import AmongFirst
from ftlib.kinds.outcomes import RetrievalOutcomes

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float


class RecallAt(AmongFirst):
    """Share of anchors whose text is among the first `k` of the corpus: recall at k, where an anchor has one text."""

    kind: Literal["recall_at"] = "recall_at"

    @override
    def per_row(self, outcomes: RetrievalOutcomes) -> Float[np.ndarray, " rows"]:
        """Return every row's own."""
        return (outcomes.rank <= self.k).astype("float64")
