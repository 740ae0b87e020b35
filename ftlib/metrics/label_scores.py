"""Precision, recall and F1: of one label, and averaged over labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, cast

from ftlib.config import BatchKind
from ftlib.metrics.base import MetricBase, OfLabel
from ftlib.metrics.label_counts import LabelCounts, Score, position
from ftlib.outcomes import LabelOutcomes

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float, Int


class ScoreOfLabel(OfLabel):
    """One label against all others."""

    reads: ClassVar[frozenset[BatchKind]] = frozenset({"labeled"})
    higher_is_better: ClassVar[bool] = True
    score: ClassVar[Score]

    def compute(self, outcomes: LabelOutcomes) -> float:
        """Return the metric over all rows. Raises DataError if the model has no such label."""
        label = position(outcomes, self.label)
        return _reference(self.score, outcomes.gold == label, outcomes.predicted == label)

    def resampled(
        self, outcomes: LabelOutcomes, rows: Int[np.ndarray, "resamples rows"]
    ) -> Float[np.ndarray, " resamples"]:
        """Return `compute` of every resample."""
        return LabelCounts.of(outcomes, rows).score(self.score)[:, position(outcomes, self.label)]


class AveragedScore(MetricBase):
    """The mean of every label's score, over the labels that occur; a label never predicted counts 0.

    A label occurs if some row has it. scikit-learn's default also averages over labels that are only predicted,
    where one stray prediction of an absent label costs a whole term: under shift, models could not be compared.
    """

    reads: ClassVar[frozenset[BatchKind]] = frozenset({"labeled"})
    higher_is_better: ClassVar[bool] = True
    score: ClassVar[Score]
    weighted: ClassVar[bool]
    """Whether a label counts by its rows, or as much as any other."""

    def compute(self, outcomes: LabelOutcomes) -> float:
        """Return the metric over all rows."""
        import numpy as np

        average = "weighted" if self.weighted else "macro"
        return _reference(
            self.score, outcomes.gold, outcomes.predicted, labels=np.unique(outcomes.gold), average=average
        )

    def resampled(
        self, outcomes: LabelOutcomes, rows: Int[np.ndarray, "resamples rows"]
    ) -> Float[np.ndarray, " resamples"]:
        """Return `compute` of every resample."""
        counts = LabelCounts.of(outcomes, rows)
        weights = counts.golds if self.weighted else counts.golds > 0
        return (counts.score(self.score) * weights).sum(axis=1) / weights.sum(axis=1)


def _reference(score: Score, gold: Any, predicted: Any, **how: Any) -> float:
    from sklearn.metrics import f1_score, precision_score, recall_score

    function = {"precision": precision_score, "recall": recall_score, "f1": f1_score}[score]
    zero = cast(Any, 0.0)  # scikit-learn's own annotation forgets that numbers are allowed
    return float(function(gold, predicted, zero_division=zero, **how))
