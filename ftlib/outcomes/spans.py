"""An answer found in a text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from ftlib.answer_text import best_overlap, is_right
from ftlib.config import BatchKind
from ftlib.outcomes.base import Outcomes

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from jaxtyping import Bool, Float


@dataclass(frozen=True, kw_only=True)
class SpanOutcomes(Outcomes):
    """One row per question, however many windows its context has; `targets` counts these, and `nll` sums over them."""

    kind: ClassVar[BatchKind] = "spans"

    answers: tuple[tuple[str, ...], ...]
    """Every text that counts as right."""
    predicted: tuple[str, ...]

    @cached_property
    def right(self) -> Bool[np.ndarray, " rows"]:
        """Which rows' answers are one of the right ones, once normalised."""
        import numpy as np

        return np.array([is_right(*row) for row in zip(self.predicted, self.answers, strict=True)], bool)

    @cached_property
    def overlap(self) -> Float[np.ndarray, " rows"]:
        """Each row's F1 of words in common with the nearest right answer."""
        import numpy as np

        return np.array([best_overlap(*row) for row in zip(self.predicted, self.answers, strict=True)], np.float64)

    def columns(self) -> dict[str, pa.Array]:
        """See Outcomes."""
        import pyarrow as pa

        answers = pa.array(self.answers, pa.list_(pa.string()))
        return {"answers": answers, "predicted": pa.array(self.predicted, pa.string())}

    @classmethod
    def read(cls, table: pa.Table, header: Mapping[str, Any], common: Mapping[str, Any]) -> SpanOutcomes:
        """See Outcomes."""
        answers = tuple(map(tuple, table["answers"].to_pylist()))
        return cls(**common, answers=answers, predicted=tuple(table["predicted"].to_pylist()))
