"""F1 of one label."""

from __future__ import annotations

from typing import ClassVar, Literal

from ftlib.evaluation.metrics.label_scores import Score, ScoreOfLabel


class F1(ScoreOfLabel):
    """Harmonic mean of one label's precision and recall; 0 where one is, undefined where no row has the label."""

    kind: Literal["f1"] = "f1"

    score: ClassVar[Score] = "f1"
