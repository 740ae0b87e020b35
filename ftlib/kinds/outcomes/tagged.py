"""A tag for every word."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import override

from ftlib.config import BatchKind
from ftlib.data.iob2 import entities, types_of
from ftlib.kinds.outcomes.base import OF_ALL_ROWS, Outcomes

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from jaxtyping import Int

Tags = tuple[str, ...]


@dataclass(frozen=True)
class EntityCounts:
    """Entities of every row, by type."""

    types: tuple[str, ...]
    hits: Int[np.ndarray, "rows types"]
    """Entities that were found: same type, same first and last word."""
    golds: Int[np.ndarray, "rows types"]
    """Entities that are there."""
    predictions: Int[np.ndarray, "rows types"]
    """Entities that were said."""


@dataclass(frozen=True, kw_only=True)
class TaggedOutcomes(Outcomes):
    """A tagger's answers. A word that the model did not read, beyond `max_tokens`, is predicted `O`."""

    kind: ClassVar[BatchKind] = "tagged"
    shown_as = frozenset({"confusion", "labels"})

    labels: tuple[str, ...] = field(metadata=OF_ALL_ROWS)
    """The model's tags."""
    gold: tuple[Tags, ...]
    """Each row's tags, word by word."""
    predicted: tuple[Tags, ...]

    @cached_property
    def entities(self) -> EntityCounts:
        """Every row's entities, counted once for all metrics and all draws."""
        types = types_of(self.labels)
        gold = [{*entities(tags)} for tags in self.gold]
        predicted = [{*entities(tags)} for tags in self.predicted]
        hits = [ours & theirs for ours, theirs in zip(gold, predicted, strict=True)]
        return EntityCounts(types, *(_by_type(rows, types) for rows in (hits, gold, predicted)))

    @cached_property
    def words(self) -> tuple[Int[np.ndarray, " rows"], Int[np.ndarray, " rows"]]:
        """Every row's words whose tag is right, and all of its words."""
        import numpy as np

        pairs = zip(self.gold, self.predicted, strict=True)
        right = np.array([sum(map(operator.eq, gold, predicted)) for gold, predicted in pairs], np.int64)
        return right, np.array([len(tags) for tags in self.gold], np.int64)

    @override
    def columns(self) -> dict[str, pa.Array]:
        import pyarrow as pa

        words = pa.list_(pa.string())
        return {"gold": pa.array(self.gold, words), "predicted": pa.array(self.predicted, words)}

    @override
    def header(self) -> dict[str, object]:
        return {"labels": self.labels}

    @classmethod
    @override
    def read(cls, table: pa.Table, header: Mapping[str, Any], common: Mapping[str, Any]) -> TaggedOutcomes:
        gold, predicted = (tuple(map(tuple, table[name].to_pylist())) for name in ("gold", "predicted"))
        return cls(**common, labels=tuple(header["labels"]), gold=gold, predicted=predicted)


def _by_type(rows: Sequence[set[Any]], types: Sequence[str]) -> Int[np.ndarray, "rows types"]:
    import numpy as np

    counts = [Counter(entity.type for entity in row) for row in rows]
    return np.array([[row[type] for type in types] for row in counts], np.int64).reshape(len(rows), len(types))
