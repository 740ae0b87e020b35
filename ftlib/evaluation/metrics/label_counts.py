"""How often each label is right, is there, and is said: all that precision, recall, F1 and MCC read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ftlib.config import BatchKind
from ftlib.data.identity import places
from ftlib.errors import DataError
from ftlib.evaluation.metrics.draws import share, summed, times_drawn
from ftlib.kinds.outcomes import LabelOutcomes, MultiLabelOutcomes

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float, Int

Score = Literal["precision", "recall", "f1"]

OF_LABELS: frozenset[BatchKind] = frozenset({"labeled", "multi_labeled"})
"""Kinds of batch whose rows have labels as a whole: one, or any number."""

LabelTable = LabelOutcomes | MultiLabelOutcomes


@dataclass(frozen=True)
class LabelCounts:
    """Counts of every resample, by label."""

    hits: Int[np.ndarray, "resamples labels"]
    """Rows that have the label and are predicted to."""
    golds: Int[np.ndarray, "resamples labels"]
    """Rows that have it."""
    predictions: Int[np.ndarray, "resamples labels"]
    """Rows that are predicted to."""

    @property
    def pooled(self) -> LabelCounts:
        """Return the counts of all labels together, as those of one."""
        return LabelCounts(*(side.sum(axis=1, keepdims=True) for side in (self.hits, self.golds, self.predictions)))

    @classmethod
    def of(cls, outcomes: LabelTable, rows: Int[np.ndarray, "resamples rows"]) -> LabelCounts:
        """Count the rows of every resample."""
        import numpy as np

        if isinstance(outcomes, MultiLabelOutcomes):
            drawn = times_drawn(rows, len(outcomes))
            sides = (outcomes.gold & outcomes.predicted, outcomes.gold, outcomes.predicted)
            return cls(*(summed(drawn, side) for side in sides))
        nothing = len(outcomes.labels)
        right = np.where(outcomes.gold == outcomes.predicted, outcomes.gold, nothing)
        hits, golds, predictions = (
            _count(labels[rows], nothing) for labels in (right, outcomes.gold, outcomes.predicted)
        )
        return cls(hits, golds, predictions)

    def score(self, score: Score) -> Float[np.ndarray, "resamples labels"]:
        """Return the score of this name; nan where no row has the label, and for precision where none is predicted to.

        Without a row of the label every model's precision and F1 would be 0: that measures the rows.
        """
        import numpy as np

        ratio = {
            "precision": share(self.hits, self.predictions),
            "recall": share(self.hits, self.golds),
            "f1": 2 * share(self.hits, self.golds + self.predictions),
        }[score]
        return np.where(self.golds > 0, ratio, np.nan)


def position(outcomes: LabelTable, label: str) -> int:
    """Return a label's place. Raises DataError if the model has no such label."""
    (index,) = places([label], outcomes.labels)
    if index is None:
        raise DataError(f"a metric names the label {label!r}; the model has {', '.join(outcomes.labels)}")
    return index


def _count(labels: Int[np.ndarray, "resamples rows"], nothing: int) -> Int[np.ndarray, "resamples labels"]:
    import numpy as np

    width = nothing + 1
    flat = labels + width * np.arange(len(labels))[:, None]
    return np.bincount(flat.ravel(), minlength=width * len(labels)).reshape(-1, width)[:, :-1]
