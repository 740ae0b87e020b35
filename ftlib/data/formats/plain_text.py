"""Text to be continued."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from ftlib.config import BatchKind, SpecialTokens
from ftlib.data.formats.text import TextFormat, text_of, text_piece
from ftlib.data.processor import Processor, Tokenizer
from ftlib.data.rows import Dropped, Encoded, Example, Piece, Values, slice_values


class PlainText(TextFormat):
    """A text column, for causal language modelling; every token but the first is a target.

    A text longer than `max_tokens` becomes several rows. Each starts with the last token of the one before, so every
    token of the text is a target exactly once, as if it were read in one go with a shorter memory.
    """

    kind: Literal["plain_text"] = "plain_text"
    text: str
    """The column that holds the text."""
    max_tokens: int = Field(default=512, gt=1)
    """A longer text becomes several rows."""
    special_tokens: SpecialTokens = "split"
    """Whether a text that spells one, `<|im_start|>` or `</s>`, is read as these characters, or as the token: `keep`,
    for texts that a chat template wrote."""
    slices: tuple[str, ...] = ()
    """Columns whose values split the evaluation report."""

    yields: ClassVar[BatchKind] = "tokens"
    keeps_lines: ClassVar[bool] = True

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the columns that must be there."""
        return (self.text, *self.slices)

    def example(self, values: Values) -> Example | Dropped:
        """Return the text of a row, or why it has none."""
        text = text_of(values, self.text)
        if isinstance(text, Dropped):
            return text
        return Example(text, None, slice_values(values, self.slices))

    def least_tokens(self, tokenizer: Tokenizer) -> int:
        """Return what `max_tokens` must be for one token to be predicted from another."""
        return 2

    def encode(self, examples: Sequence[Example], processor: Processor) -> list[Encoded]:
        """Return the pieces of every text, with an end-of-text token if the tokenizer has one."""
        tokenizer = processor.tokenizer
        end = tokenizer.eos_token_id
        texts, split = [example.text for example in examples], self.special_tokens == "split"
        whole: list[list[int]] = tokenizer(texts, verbose=False, split_special_tokens=split)["input_ids"]
        return [Encoded(self._pieces(ids, end)) for ids in whole]

    def _pieces(self, ids: list[int], end: int | None) -> list[Piece]:
        if end is not None and ids[-1:] != [end]:
            ids = [*ids, end]
        step = self.max_tokens - 1
        cuts = [ids[i : i + self.max_tokens] for i in range(0, max(len(ids) - 1, 1), step)]
        return [text_piece(cut, supervised=len(cut) - 1) for cut in cuts if cut]
