"""Precision, recall and F1 of entities: of all types together, or of one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from typing_extensions import override

from ftlib.config import BatchKind
from ftlib.errors import DataError
from ftlib.evaluation.metrics.base import MetricBase
from ftlib.evaluation.metrics.draws import summed, times_drawn
from ftlib.evaluation.metrics.label_counts import LabelCounts, Score
from ftlib.kinds.outcomes import TaggedOutcomes

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float, Int


class EntityScore(MetricBase):
    """Entities count as found with the same type, first and last word (CoNLL-2003); counts are summed over all rows."""

    type: str | None = None
    """One type of entity, without B- and I-; the metric is then called `entity_f1:PER`. None is all of them."""

    reads: ClassVar[frozenset[BatchKind]] = frozenset({"tagged"})
    higher_is_better: ClassVar[bool] = True
    score: ClassVar[Score]

    @property
    @override
    def name(self) -> str:
        return f"{super().name}:{self.type}" if self.type else super().name

    @property
    @override
    def undefined_where(self) -> str:
        lacking = f"entity of type {self.type!r}" if self.type else "entity"
        return f"the rows hold no {lacking}{' or none is said' if self.score == 'precision' else ''}"

    @override
    def may_be_defined(self, rows: int, labels: Mapping[str, int]) -> bool:
        return any(count and self.type in (None, tag[2:]) for tag, count in labels.items() if tag != "O")

    def resampled(
        self, outcomes: TaggedOutcomes, rows: Int[np.ndarray, "resamples rows"]
    ) -> Float[np.ndarray, " resamples"]:
        """Return `compute` of every resample. Raises DataError if the model knows no such type."""
        column = 0 if self.type is None else self._column(outcomes.entities.types, self.type)
        counts = entity_counts(outcomes, rows)
        return (counts.pooled if self.type is None else counts).score(self.score)[:, column]

    def _column(self, types: tuple[str, ...], name: str) -> int:
        if name not in types:
            raise DataError(
                f"metric {self.name!r}: the model knows no entities of type {name!r}; it has {', '.join(types)}"
            )
        return types.index(name)


def entity_counts(outcomes: TaggedOutcomes, rows: Int[np.ndarray, "resamples rows"]) -> LabelCounts:
    """Count the entities of every resample, by type."""
    drawn, entities = times_drawn(rows, len(outcomes)), outcomes.entities
    return LabelCounts(*(summed(drawn, side) for side in (entities.hits, entities.golds, entities.predictions)))
