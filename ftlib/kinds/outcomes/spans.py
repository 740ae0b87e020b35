"""An answer found in a text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, cast

from typing_extensions import override

from ftlib.config import BatchKind
from ftlib.kinds.answer_text import best_overlap, is_right, normalized
from ftlib.kinds.outcomes.base import Outcomes

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from jaxtyping import Bool, Float


@dataclass(frozen=True, kw_only=True)
class SpanOutcomes(Outcomes):
    """What a model found in every window of a context; `by_example`, what it answers to every question.

    Where a question may have no answer, the table has both scores, so that a threshold decides afterwards.
    """

    kind: ClassVar[BatchKind] = "spans"
    shown_as = frozenset({"questions"})

    answers: tuple[tuple[str, ...], ...]
    """Every text that counts as right; none for a question without an answer."""
    predicted: tuple[str, ...]
    """The best text, also where that there is none scores higher."""
    scores: Float[np.ndarray, " rows"]
    """The sum of the logits of the predicted text's first and last token: of several windows the highest answers."""
    null_scores: Float[np.ndarray, " rows"] | None = None
    """The same sum of the row's first token, which says that there is no answer: of several windows the lowest, as each
    says so of its own part only. None where every question has an answer."""

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
            null_scores=None if self.null_scores is None else np.minimum.reduceat(self.null_scores, firsts),
        )

    def silent(self, threshold: float) -> Bool[np.ndarray, " rows"]:
        """Which rows are said to have no answer: those where that scores more than `threshold` above the best text."""
        import numpy as np

        if self.null_scores is None:
            return np.zeros(len(self), bool)
        return self.null_scores - self.scores > threshold

    @cached_property
    def unanswerable(self) -> Bool[np.ndarray, " rows"]:
        """Which rows it is right to say nothing about: those without an answer, where there may be none."""
        import numpy as np

        optional = self.null_scores is not None
        return np.array([optional and answers == ("",) for answers in self._scored_against], bool)

    @cached_property
    def right(self) -> Bool[np.ndarray, " rows"]:
        """Which rows' best texts are one of the right ones, once normalised."""
        import numpy as np

        return np.array([is_right(*row) for row in zip(self.predicted, self._scored_against, strict=True)], bool)

    @cached_property
    def overlap(self) -> Float[np.ndarray, " rows"]:
        """Each row's F1 of its best text's words in common with the nearest right answer."""
        import numpy as np

        overlaps = [best_overlap(*row) for row in zip(self.predicted, self.answers, strict=True)]
        return np.where(self.unanswerable, self.right, np.array(overlaps, np.float64))

    @cached_property
    def _scored_against(self) -> tuple[tuple[str, ...], ...]:
        """The right answers as SQuAD's scripts read them: 2.0's makes the empty text of those that say nothing."""
        if self.null_scores is None:
            return self.answers
        return tuple(tuple(filter(normalized, answers)) or ("",) for answers in self.answers)

    @override
    def columns(self) -> dict[str, pa.Array]:
        import pyarrow as pa

        numbers = {"scores": self.scores, "null_scores": self.null_scores}
        return {
            "answers": pa.array(self.answers, pa.list_(pa.string())),
            "predicted": pa.array(self.predicted, pa.string()),
            **{name: pa.array(column, pa.float64()) for name, column in numbers.items() if column is not None},
        }

    @classmethod
    @override
    def read(cls, table: pa.Table, header: Mapping[str, Any], common: Mapping[str, Any]) -> SpanOutcomes:
        answers = tuple(map(tuple, table["answers"].to_pylist()))
        return cls(
            **common,
            answers=answers,
            predicted=tuple(table["predicted"].to_pylist()),
            scores=table["scores"].to_numpy(),
            null_scores=table["null_scores"].to_numpy() if "null_scores" in table.column_names else None,
        )
