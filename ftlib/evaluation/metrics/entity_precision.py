"""Precision of entities."""

from __future__ import annotations

from typing import ClassVar, Literal

from ftlib.evaluation.metrics.entity_scores import EntityScore
from ftlib.evaluation.metrics.label_counts import Score


class EntityPrecision(EntityScore):
    """Share of the entities said that are there; undefined where none is said, or none is there."""

    kind: Literal["entity_precision"] = "entity_precision"

    score: ClassVar[Score] = "precision"
