"""How high texts are found, among the first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from typing_extensions import override

from ftlib.evaluation.metrics.among_first import AmongFirst
from ftlib.kinds.outcomes import RetrievalOutcomes

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float


class NDCG(AmongFirst):
    """Mean of 1 / log2(1 + rank) where that is at most `k`, else 0: nDCG at k, where an anchor has one text."""

    kind: Literal["ndcg"] = "ndcg"

    @override
    def per_row(self, outcomes: RetrievalOutcomes) -> Float[np.ndarray, " rows"]:
        """Return every row's own."""
        import numpy as np

        return np.where(outcomes.rank <= self.k, 1 / np.log2(1 + outcomes.rank), 0.0)
