"""F1 averaged over rows."""

from __future__ import annotations

from typing import ClassVar, Literal

from ftlib.evaluation.metrics.label_scores import AveragedScore, Score


class WeightedF1(AveragedScore):
    """The mean of every label's F1, each weighted by the label's rows."""

    kind: Literal["weighted_f1"] = "weighted_f1"

    score: ClassVar[Score] = "f1"
    weighted: ClassVar[bool] = True
