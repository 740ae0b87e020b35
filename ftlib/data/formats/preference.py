"""A prompt and two answers, of which one is preferred."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from typing_extensions import override

from ftlib.config import BatchKind
from ftlib.data.formats.answers import Answered, AnswerFormat
from ftlib.data.formats.text import text_piece
from ftlib.data.row_targets import Pair
from ftlib.data.rows import Dropped, Example, Piece, Values, slice_values


class Preference(AnswerFormat):
    """Columns of a prompt, of the answer that is preferred, and of the other: texts, or chats.

    A pair of equal answers is dropped. Two rows of the same prompt and answers are copies, and where they prefer each
    another one, both are dropped as contradictory.
    """

    kind: Literal["preference"] = "preference"
    chosen: str
    """The column of the answer that is preferred."""
    rejected: str
    """The column of the other answer."""

    yields: ClassVar[BatchKind] = "preferences"

    @property
    @override
    def answer_columns(self) -> tuple[str, ...]:
        return (self.chosen, self.rejected)

    def example(self, values: Values) -> Example | Dropped:
        """Return a pair, told from others by its prompt and both answers, in whatever order; or why it is none."""
        parts = self.texts_of(values)
        if isinstance(parts, Dropped):
            return parts
        chosen, rejected, *prompt = parts
        if chosen == rejected:
            return Dropped("equal_answers")
        text = "\n\n".join([*prompt, *sorted((chosen, rejected))])
        target = Pair(places=[], chosen=chosen, rejected=rejected, end=None)
        return Example(text, chosen, slice_values(values, self.slices), parts, target)

    @override
    def piece(self, example: Example, answered: Sequence[Answered], end: int | None) -> Piece | Dropped:
        chosen, rejected = answered
        if chosen.ids == rejected.ids:  # as where a tokenizer knows no capitals
            return Dropped("equal_answers", "the tokenizer makes the same tokens of both")
        start = len(chosen.ids)
        places = [chosen.first, start, start + rejected.first, start + len(rejected.ids)]
        target = Pair(places=places, chosen=example.parts[0], rejected=example.parts[1], end=end)
        return text_piece([*chosen.ids, *rejected.ids], target)
