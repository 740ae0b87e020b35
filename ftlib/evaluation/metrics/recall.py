"""Recall of one label."""

from __future__ import annotations

from typing import ClassVar, Literal

from ftlib.evaluation.metrics.label_scores import Score, ScoreOfLabel


class Recall(ScoreOfLabel):
    """Share of the rows with the label that are predicted to have it; undefined if no row has it."""

    kind: Literal["recall"] = "recall"

    score: ClassVar[Score] = "recall"
