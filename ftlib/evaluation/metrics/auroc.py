"""Area under the ROC curve."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from typing_extensions import override

from ftlib.config import BatchKind
from ftlib.evaluation.metrics.base import MetricBase
from ftlib.evaluation.metrics.draws import times_drawn
from ftlib.evaluation.metrics.label_counts import OF_LABELS, LabelTable
from ftlib.kinds.outcomes import MultiLabelOutcomes

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Bool, Float, Int


class AUROC(MetricBase):
    """Chance that a row with a label is held more probable to have it than a row without; ties count half.

    Each label against all others, then the unweighted mean over the labels that some rows have and some have not;
    undefined if there is no such label. With two labels it is the usual area under the curve.
    """

    kind: Literal["auroc"] = "auroc"

    reads: ClassVar[frozenset[BatchKind]] = OF_LABELS
    higher_is_better: ClassVar[bool] = True

    @property
    @override
    def undefined_where(self) -> str:
        return "there is no label that some rows have and others have not"

    @override
    def may_be_defined(self, rows: int, labels: Mapping[str, int]) -> bool:
        return any(0 < count < rows for count in labels.values())

    def compute(self, outcomes: LabelTable) -> float:
        """Return the metric over all rows."""
        import numpy as np
        from sklearn.metrics import roc_auc_score

        areas = [float(roc_auc_score(gold, outcomes.probabilities[:, label])) for label, gold in _ranked(outcomes)]
        return float(np.mean(areas)) if areas else float("nan")

    def resampled(
        self, outcomes: LabelTable, rows: Int[np.ndarray, "resamples rows"]
    ) -> Float[np.ndarray, " resamples"]:
        """Return `compute` of every resample, from how often each row was drawn: rows are sorted once per label."""
        import numpy as np

        drawn = times_drawn(rows, len(outcomes))
        total, labels = np.zeros(len(rows)), np.zeros(len(rows), np.int64)
        for label, gold in _ranked(outcomes):
            area, defined = areas(outcomes.probabilities[:, label], gold, drawn)
            total += area
            labels += defined
        return np.where(labels > 0, total / labels.clip(min=1), np.nan)


def _ranked(outcomes: LabelTable) -> Iterator[tuple[int, Bool[np.ndarray, " rows"]]]:
    """Yield the labels that some rows have and some have not, with the rows that have them."""
    for label in range(len(outcomes.labels)):
        gold = outcomes.gold[:, label] if isinstance(outcomes, MultiLabelOutcomes) else outcomes.gold == label
        if gold.any() and not gold.all():
            yield label, gold


def areas(
    scores: Float[np.ndarray, " rows"], gold: Bool[np.ndarray, " rows"], drawn: Int[np.ndarray, "resamples rows"]
) -> tuple[Float[np.ndarray, " resamples"], Int[np.ndarray, " resamples"]]:
    """Return each resample's area (Mann-Whitney's U), 0 where it is undefined, and 1 where it is defined."""
    import numpy as np

    order = np.argsort(scores, kind="stable")
    first = np.flatnonzero(np.diff(scores[order], prepend=np.nan) != 0)  # of rows with one score
    positive, negative = (np.add.reduceat(drawn[:, order] * side[order], first, axis=1) for side in (gold, ~gold))
    below = negative.cumsum(axis=1) - negative
    pairs = positive.sum(axis=1) * negative.sum(axis=1)
    wins = (positive * (below + negative / 2)).sum(axis=1)
    return wins / pairs.clip(min=1), (pairs > 0).astype(np.int64)
