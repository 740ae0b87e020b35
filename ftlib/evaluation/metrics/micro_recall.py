"""Recall of all labels pooled."""

from __future__ import annotations

from typing import ClassVar, Literal

from ftlib.evaluation.metrics.label_scores import PooledScore, Score


class MicroRecall(PooledScore):
    """Share of all labels that are found; undefined if there is none."""

    kind: Literal["micro_recall"] = "micro_recall"

    score: ClassVar[Score] = "recall"
