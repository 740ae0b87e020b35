"""Precision of one label."""

from __future__ import annotations

from typing import ClassVar, Literal

from ftlib.evaluation.metrics.label_scores import Score, ScoreOfLabel


class Precision(ScoreOfLabel):
    """Share of the rows predicted to have the label that have it; undefined if none is predicted to, or none has it."""

    kind: Literal["precision"] = "precision"

    score: ClassVar[Score] = "precision"
