"""F1 of entities."""

from __future__ import annotations

from typing import ClassVar, Literal

from ftlib.evaluation.metrics.entity_scores import EntityScore
from ftlib.evaluation.metrics.label_counts import Score


class EntityF1(EntityScore):
    """Harmonic mean of entity precision and recall; 0 where one is, undefined where there is no entity."""

    kind: Literal["entity_f1"] = "entity_f1"

    score: ClassVar[Score] = "f1"
