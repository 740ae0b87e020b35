"""Recall averaged over labels."""

from __future__ import annotations

from typing import ClassVar, Literal

from ftlib.evaluation.metrics.label_scores import AveragedScore, Score


class MacroRecall(AveragedScore):
    """The unweighted mean of every label's recall, over the labels that occur: balanced accuracy."""

    kind: Literal["macro_recall"] = "macro_recall"

    score: ClassVar[Score] = "recall"
    weighted: ClassVar[bool] = False
