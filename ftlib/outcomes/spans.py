"""An answer found in a text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, cast

from ftlib.answer_text import best_overlap, is_right
from ftlib.config import BatchKind
from ftlib.outcomes.base import Outcomes

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from jaxtyping import Bool, Float


@dataclass(frozen=True, kw_only=True)
class SpanOutcomes(Outcomes):
    """What a model found in every window of a context; `by_example`, what it answers to every question."""

    kind: ClassVar[BatchKind] = "spans"

    answers: tuple[tuple[str, ...], ...]
    """Every text that counts as right."""
    predicted: tuple[str, ...]
    scores: Float[np.ndarray, " rows"]
    """The sum of the logits of the predicted text's first and last token: of several windows the highest answers."""

    def by_example(self) -> SpanOutcomes:
        """Return one row per question: its windows follow one another and are named after it.

        `targets` counts the windows, and `nll` sums over them.
        """
        import numpy as np

        names = [row_id.partition("-")[0] for row_id in self.row_ids]
        firsts = np.array([i for i, name in enumerate(names) if i == 0 or name != names[i - 1]], np.int64)
        ends = [*firsts[1:].tolist(), len(names)]
        best = np.array([a + self.scores[a:b].argmax() for a, b in zip(firsts, ends, strict=True)], np.int64)
        return replace(
            cast(SpanOutcomes, self.take(best)),
            row_ids=tuple(names[i] for i in firsts),
            nll=np.add.reduceat(self.nll, firsts),
            targets=np.add.reduceat(self.targets, firsts),
        )

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
        scores = pa.array(self.scores, pa.float64())
        return {"answers": answers, "predicted": pa.array(self.predicted, pa.string()), "scores": scores}

    @classmethod
    def read(cls, table: pa.Table, header: Mapping[str, Any], common: Mapping[str, Any]) -> SpanOutcomes:
        """See Outcomes."""
        answers = tuple(map(tuple, table["answers"].to_pylist()))
        return cls(
            **common,
            answers=answers,
            predicted=tuple(table["predicted"].to_pylist()),
            scores=table["scores"].to_numpy(),
        )
