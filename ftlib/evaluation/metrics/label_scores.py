"""Precision, recall and F1: of one label, averaged over labels, and of all labels pooled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from typing_extensions import override

from ftlib.config import BatchKind
from ftlib.evaluation.metrics.base import MetricBase, OfLabel
from ftlib.evaluation.metrics.label_counts import OF_LABELS, LabelCounts, LabelTable, Score, position
from ftlib.kinds.outcomes import MultiLabelOutcomes

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float, Int


class ScoreOfLabel(OfLabel):
    """One label against all others."""

    reads: ClassVar[frozenset[BatchKind]] = OF_LABELS
    higher_is_better: ClassVar[bool] = True
    score: ClassVar[Score]

    @property
    @override
    def undefined_where(self) -> str:
        return f"no row has the label {self.label!r}{' or none is predicted to' if self.score == 'precision' else ''}"

    @override
    def may_be_defined(self, rows: int, labels: Mapping[str, int]) -> bool:
        return labels.get(self.label, 0) > 0

    def resampled(
        self, outcomes: LabelTable, rows: Int[np.ndarray, "resamples rows"]
    ) -> Float[np.ndarray, " resamples"]:
        """Return `compute` of every resample. Raises DataError if the model has no such label."""
        return LabelCounts.of(outcomes, rows).score(self.score)[:, position(outcomes, self.label)]


class AveragedScore(MetricBase):
    """The mean of every label's score, over the labels that occur; a label never predicted counts 0.

    A label occurs if some row has it. scikit-learn's default also averages over labels that are only predicted,
    where one stray prediction of an absent label costs a whole term: under shift, models could not be compared.
    """

    reads: ClassVar[frozenset[BatchKind]] = OF_LABELS
    higher_is_better: ClassVar[bool] = True
    score: ClassVar[Score]
    weighted: ClassVar[bool]
    """Whether a label counts by its rows, or as much as any other."""

    @property
    @override
    def undefined_where(self) -> str:
        return "no row has a label"

    @override
    def may_be_defined(self, rows: int, labels: Mapping[str, int]) -> bool:
        return any(labels.values())

    def resampled(
        self, outcomes: LabelTable, rows: Int[np.ndarray, "resamples rows"]
    ) -> Float[np.ndarray, " resamples"]:
        """Return `compute` of every resample."""
        import numpy as np

        counts = LabelCounts.of(outcomes, rows)
        weights = counts.golds if self.weighted else counts.golds > 0
        total = (np.nan_to_num(counts.score(self.score)) * weights).sum(axis=1)
        return np.where(weights.any(axis=1), total / weights.sum(axis=1).clip(min=1), np.nan)


class PooledScore(MetricBase):
    """The score of all labels' yes and no together. Of single-label rows it would be the accuracy."""

    reads: ClassVar[frozenset[BatchKind]] = frozenset({"multi_labeled"})
    higher_is_better: ClassVar[bool] = True
    score: ClassVar[Score]

    @property
    @override
    def undefined_where(self) -> str:
        return f"no row has a label{' or none is predicted' if self.score == 'precision' else ''}"

    @override
    def may_be_defined(self, rows: int, labels: Mapping[str, int]) -> bool:
        return any(labels.values())

    def resampled(
        self, outcomes: MultiLabelOutcomes, rows: Int[np.ndarray, "resamples rows"]
    ) -> Float[np.ndarray, " resamples"]:
        """Return `compute` of every resample."""
        return LabelCounts.of(outcomes, rows).pooled.score(self.score)[:, 0]
