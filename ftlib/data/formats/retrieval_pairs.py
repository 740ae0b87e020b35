"""Two texts that are to be found by one another."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import ClassVar, Literal

from pydantic import Field

from ftlib.config import BatchKind, SpecialTokens
from ftlib.data.cleaning import clean
from ftlib.data.formats.text import TextFormat, text_of, text_piece, tokens_within
from ftlib.data.inputs import INPUT_IDS
from ftlib.data.processor import Processor, Tokenizer
from ftlib.data.rows import Dropped, Encoded, Example, Values, slice_values


class RetrievalPairs(TextFormat):
    """The columns of an anchor (a question, a title) and of the text that is to be found by it, for sentence encoders.

    A text's vector is the mean of its tokens' vectors, of length 1; texts are near where the cosine is large.
    """

    kind: Literal["retrieval_pairs"] = "retrieval_pairs"
    anchor: str
    """The column that holds what is asked."""
    positive: str
    """The column that holds the text that is to be found."""
    negative: str | None = None
    """The column that holds a text that is not to be found, though it is near."""
    max_tokens: int = Field(default=256, gt=1)
    """Longer texts are cut, each by itself; how many rows is reported."""
    special_tokens: SpecialTokens = "split"
    """Whether a text that spells one, `[SEP]` or `</s>`, is read as these characters, or as the token: `keep`."""
    slices: tuple[str, ...] = ()
    """Columns whose values split the evaluation report."""

    yields: ClassVar[BatchKind] = "retrieved"
    keeps_lines: ClassVar[bool] = False

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the columns that must be there."""
        return (*self._texts, *self.slices)

    @property
    def _texts(self) -> tuple[str, ...]:
        return (self.anchor, self.positive, *([self.negative] if self.negative else []))

    def example(self, values: Values) -> Example | Dropped:
        """Return the texts of a row, or why it lacks one; two rows are copies if all their texts are."""
        parts: list[str] = []
        for column in self._texts:
            text = text_of(values, column)
            if isinstance(text, Dropped):
                return text
            if not (cleaned := clean(text, keep_lines=self.keeps_lines)):
                return Dropped("empty_text")
            parts.append(cleaned)
        return Example("\n".join(parts), None, slice_values(values, self.slices), tuple(parts))

    def least_tokens(self, tokenizer: Tokenizer) -> int:
        """Return what `max_tokens` must be for one token of a text to be read."""
        return tokenizer.num_special_tokens_to_add() + 1

    def encode(self, examples: Sequence[Example], processor: Processor) -> list[Encoded]:
        """Return the tokens of each row's texts, one behind the other; its target says where each of them ends.

        An example without `parts`, as a user asks it, is one text.
        """
        texts = [example.parts or (example.text,) for example in examples]
        flat = [text for row in texts for text in row]
        if not flat:
            return []
        made, was_cut = tokens_within(processor.tokenizer, [flat], self.max_tokens, self.special_tokens)
        ids = made[INPUT_IDS]
        encoded, at = list[Encoded](), 0
        for row in texts:
            mine, truncated = ids[at : at + len(row)], any(was_cut[at : at + len(row)])
            joined, ends = [id for cut in mine for id in cut], tuple(accumulate(map(len, mine)))
            encoded.append(Encoded([text_piece(joined, ends)], truncated=truncated))
            at += len(row)
        return encoded
