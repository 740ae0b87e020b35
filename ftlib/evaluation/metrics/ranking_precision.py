"""How far up a row's own labels are ranked."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from ftlib.config import BatchKind
from ftlib.evaluation.metrics.base import MeanOverRows
from ftlib.kinds.outcomes import MultiLabelOutcomes

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float


class RankingPrecision(MeanOverRows):
    """Label ranking average precision: for each label of a row, the share of its own among those ranked as high.

    It needs no threshold (Schapire & Singer 2000). 1 for a row that has no label, or all of them.
    """

    kind: Literal["ranking_precision"] = "ranking_precision"

    reads: ClassVar[frozenset[BatchKind]] = frozenset({"multi_labeled"})
    higher_is_better: ClassVar[bool] = True

    def per_row(self, outcomes: MultiLabelOutcomes) -> Float[np.ndarray, " rows"]:
        """Return every row's own."""
        import numpy as np
        from scipy.stats import rankdata

        gold, own = outcomes.gold, outcomes.gold.sum(axis=1)
        rank = rankdata(-outcomes.probabilities, method="max", axis=1)
        among_own = rankdata(np.where(gold, -outcomes.probabilities, np.inf), method="max", axis=1)
        precision = (np.where(gold, among_own / rank, 0.0)).sum(axis=1) / own.clip(min=1)
        return np.where((own == 0) | (own == gold.shape[1]), 1.0, precision)
