"""One text, one number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from ftlib.config import BatchKind, SpecialTokens
from ftlib.data.formats.text import TextFormat, encode_texts, text_of
from ftlib.data.processor import Processor, Tokenizer
from ftlib.data.row_keys import as_number
from ftlib.data.rows import Dropped, Encoded, Example, Values, slice_values


class ScoredText(TextFormat):
    """A text column and a column of finite numbers, for regression; a text that spells one counts, as in csv."""

    kind: Literal["scored_text"] = "scored_text"
    text: str
    """The column that holds the text."""
    score: str
    """The column that holds the number to predict."""
    max_tokens: int = Field(default=256, gt=1)
    """Longer texts are cut; how many is reported."""
    special_tokens: SpecialTokens = "split"
    """Whether a text that spells one, `[SEP]` or `</s>`, is read as these characters, or as the token: `keep`."""
    slices: tuple[str, ...] = ()
    """Columns whose values split the evaluation report."""

    yields: ClassVar[BatchKind] = "scored"
    keeps_lines: ClassVar[bool] = False

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the columns that must be there."""
        return (self.text, self.score, *self.slices)

    def example(self, values: Values) -> Example | Dropped:
        """Return text and score of a row, or why it has none."""
        text, value = text_of(values, self.text), values.get(self.score)
        if isinstance(text, Dropped):
            return text
        if value is None:
            return Dropped("missing_score")
        score = as_number(value)
        if score is None:
            return Dropped("score_not_a_number")
        # The number as label: copies of a text with different scores contradict each other.
        return Example(text, f"{score + 0.0:.17g}", slice_values(values, self.slices), target=score)

    def least_tokens(self, tokenizer: Tokenizer) -> int:
        """Return what `max_tokens` must be for one token of a text to be read."""
        return tokenizer.num_special_tokens_to_add() + 1

    def encode(self, examples: Sequence[Example], processor: Processor) -> list[Encoded]:
        """Return one piece per text, special tokens included, cut to `max_tokens` by the tokenizer's own rule."""
        return encode_texts(examples, processor.tokenizer, self.max_tokens, self.special_tokens)
