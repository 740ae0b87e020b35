"""How high texts are found, among the first."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from ftlib.config import BatchKind
from ftlib.evaluation.metrics.base import MeanOverRows
from ftlib.kinds.outcomes import RetrievalOutcomes

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float


class NDCG(MeanOverRows):
    """Mean of 1 / log2(1 + rank) where that is at most `k`, else 0: nDCG at k, where an anchor has one text.

    Rules and gates call it `ndcg@10`.
    """

    kind: Literal["ndcg"] = "ndcg"
    k: int = Field(default=10, gt=0)
    """How many of the texts that are found are looked at."""

    reads: ClassVar[frozenset[BatchKind]] = frozenset({"retrieved"})
    higher_is_better: ClassVar[bool] = True

    @property
    @override
    def name(self) -> str:
        return f"ndcg@{self.k}"

    def per_row(self, outcomes: RetrievalOutcomes) -> Float[np.ndarray, " rows"]:
        """Return every row's own."""
        import numpy as np

        return np.where(outcomes.rank <= self.k, 1 / np.log2(1 + outcomes.rank), 0.0)
