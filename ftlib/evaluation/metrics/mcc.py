"""Matthews correlation coefficient."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from typing_extensions import override

from ftlib.config import BatchKind
from ftlib.evaluation.metrics.base import MetricBase
from ftlib.evaluation.metrics.label_counts import LabelCounts
from ftlib.kinds.outcomes import LabelOutcomes

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float, Int


class MCC(MetricBase):
    """Correlation of labels and predictions, for any number of labels (Gorodkin 2004); 0 is chance, 1 is all right.

    Undefined where all rows have one label. Where all predictions have one, it is 0: such a model says nothing.
    """

    kind: Literal["mcc"] = "mcc"

    reads: ClassVar[frozenset[BatchKind]] = frozenset({"labeled"})
    higher_is_better: ClassVar[bool] = True

    @property
    @override
    def undefined_where(self) -> str:
        return "all rows have the same label"

    @override
    def may_be_defined(self, rows: int, labels: Mapping[str, int]) -> bool:
        return sum(count > 0 for count in labels.values()) > 1

    def resampled(
        self, outcomes: LabelOutcomes, rows: Int[np.ndarray, "resamples rows"]
    ) -> Float[np.ndarray, " resamples"]:
        """Return `compute` of every resample, from counts: no table of labels by labels is made."""
        import numpy as np

        counts, total = LabelCounts.of(outcomes, rows), rows.shape[1]
        covariance = counts.hits.sum(axis=1) * total - (counts.golds * counts.predictions).sum(axis=1)
        spread = [total**2 - (side.astype(np.float64) ** 2).sum(axis=1) for side in (counts.golds, counts.predictions)]
        scale = np.sqrt(spread[0] * spread[1])
        correlation = np.divide(covariance, scale, out=np.zeros(len(rows)), where=scale > 0)
        return np.where(spread[0] > 0, correlation, np.nan)
