"""F1 of all labels pooled."""

from __future__ import annotations

from typing import ClassVar, Literal

from ftlib.evaluation.metrics.label_scores import PooledScore, Score


class MicroF1(PooledScore):
    """The harmonic mean of micro precision and micro recall; 0 where one is."""

    kind: Literal["micro_f1"] = "micro_f1"

    score: ClassVar[Score] = "f1"
