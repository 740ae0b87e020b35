"""F1 averaged over labels."""

from __future__ import annotations

from typing import ClassVar, Literal

from ftlib.evaluation.metrics.label_scores import AveragedScore, Score


class MacroF1(AveragedScore):
    """The unweighted mean of every label's F1, over the labels that occur."""

    kind: Literal["macro_f1"] = "macro_f1"

    score: ClassVar[Score] = "f1"
    weighted: ClassVar[bool] = False
