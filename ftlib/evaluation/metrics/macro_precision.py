"""Precision averaged over labels."""

from __future__ import annotations

from typing import ClassVar, Literal

from ftlib.evaluation.metrics.label_scores import AveragedScore, Score


class MacroPrecision(AveragedScore):
    """The unweighted mean of every label's precision, over the labels that occur."""

    kind: Literal["macro_precision"] = "macro_precision"

    score: ClassVar[Score] = "precision"
    weighted: ClassVar[bool] = False
