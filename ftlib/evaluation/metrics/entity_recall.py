"""Recall of entities."""

from __future__ import annotations

from typing import ClassVar, Literal

from ftlib.evaluation.metrics.entity_scores import EntityScore
from ftlib.evaluation.metrics.label_counts import Score


class EntityRecall(EntityScore):
    """Share of the entities there that are found; undefined where there is none."""

    kind: Literal["entity_recall"] = "entity_recall"

    score: ClassVar[Score] = "recall"
