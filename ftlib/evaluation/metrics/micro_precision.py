"""Precision of all labels pooled."""

from __future__ import annotations

from typing import ClassVar, Literal

from ftlib.evaluation.metrics.label_scores import PooledScore, Score


class MicroPrecision(PooledScore):
    """Share of all predicted labels that are right; undefined if none is, or none is there."""

    kind: Literal["micro_precision"] = "micro_precision"

    score: ClassVar[Score] = "precision"
