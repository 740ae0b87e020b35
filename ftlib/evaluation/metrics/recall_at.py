"""How often a text is among the first that are found."""

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


class RecallAt(MeanOverRows):
    """Share of anchors whose text is among the first `k` of the corpus: recall at k, where an anchor has one text.

    Rules and gates call it `recall_at@10`.
    """

    kind: Literal["recall_at"] = "recall_at"
    k: int = Field(default=10, gt=0)
    """How many of the texts that are found are looked at."""

    reads: ClassVar[frozenset[BatchKind]] = frozenset({"retrieved"})
    higher_is_better: ClassVar[bool] = True

    @property
    @override
    def name(self) -> str:
        return f"recall_at@{self.k}"

    def per_row(self, outcomes: RetrievalOutcomes) -> Float[np.ndarray, " rows"]:
        """Return every row's own."""
        return (outcomes.rank <= self.k).astype("float64")
