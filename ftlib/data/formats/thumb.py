"""A prompt, an answer, and whether it was wanted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import ClassVar, Literal

from typing_extensions import override

from ftlib.config import BatchKind
from ftlib.data.formats.answers import Answered, AnswerFormat
from ftlib.data.formats.text import text_piece
from ftlib.data.row_targets import Judgement
from ftlib.data.rows import Dropped, Example, Piece, Value, Values, slice_values

_WORDS: Mapping[str, bool] = MappingProxyType(
    {
        **dict.fromkeys(("true", "yes", "up", "1", "👍"), True),
        **dict.fromkeys(("false", "no", "down", "0", "-1", "👎"), False),
    }
)


class Thumb(AnswerFormat):
    """Columns of a prompt, of an answer, and of what somebody thought of it: yes or no.

    Two rows of the same prompt and answer are copies; where one says yes and one no, both are dropped as contradictory.
    """

    kind: Literal["thumb"] = "thumb"
    answer: str
    """The column of what was answered: a text or, of chats, a turn."""
    label: str
    """The column that says whether the answer is wanted: true or false, 1 or 0, yes or no, up or down."""

    yields: ClassVar[BatchKind] = "judged"

    @property
    @override
    def answer_columns(self) -> tuple[str, ...]:
        return (self.answer,)

    @property
    @override
    def columns(self) -> tuple[str, ...]:
        return (self.prompt, self.answer, self.label, *self.tool_columns, *self.slices)

    def example(self, values: Values) -> Example | Dropped:
        """Return an answer with its thumb, or why there is none."""
        parts, value = self.texts_of(values), values.get(self.label)
        if isinstance(parts, Dropped):
            return parts
        if value is None or value == "":
            return Dropped("missing_thumb")
        if (wanted := _thumb(value)) is None:
            return Dropped("thumb_not_yes_or_no")
        answer, *prompt = parts
        target = Judgement(places=[], wanted=wanted, answer=answer, end=None)
        text = "\n\n".join([*prompt, answer])
        return Example(text, str(wanted), slice_values(values, self.slices), parts, target)

    @override
    def piece(self, example: Example, answered: Sequence[Answered], end: int | None) -> Piece | Dropped:
        (one,) = answered
        assert isinstance(example.target, dict)
        assert "wanted" in example.target
        places, wanted = [one.first, len(one.ids)], example.target["wanted"]
        return text_piece(one.ids, Judgement(places=places, wanted=wanted, answer=example.parts[0], end=end))


def _thumb(value: Value) -> bool | None:
    if isinstance(value, float) and value.is_integer():  # a table fills whole numbers up with NaN
        value = int(value)
    return _WORDS.get(str(value).strip().lower()) if isinstance(value, bool | int | str) else None
