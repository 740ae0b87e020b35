"""What the formats that a tokenizer reads have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from typing_extensions import TypeIs

from ftlib.config import SpecialTokens
from ftlib.data.formats.base import FormatBase
from ftlib.data.inputs import INPUT_IDS
from ftlib.data.processor import Processor, Tokenizer
from ftlib.data.row_targets import Target
from ftlib.data.rows import Dropped, Encoded, Example, Piece, Values


class TextFormat(FormatBase, ABC):
    """A format with `max_tokens` and `special_tokens`, which needs a tokenizer."""

    if TYPE_CHECKING:  # fields of each, which stand where its users look for them
        max_tokens: int
        special_tokens: SpecialTokens

    @abstractmethod
    def least_tokens(self, tokenizer: Tokenizer) -> int:
        """Return what `max_tokens` must be for one token of a text to be read."""

    def row_limits(self) -> Mapping[str, int]:
        """Return how many tokens a sequence of a row may have, by the field that says so."""
        return {"max_tokens": self.max_tokens}

    @abstractmethod
    def encode(self, examples: Sequence[Example], processor: Processor) -> list[Encoded]:
        """Return each example's pieces."""


def reads_text(format: FormatBase) -> TypeIs[TextFormat]:
    """Say whether a format has `max_tokens` and `special_tokens`, and needs a tokenizer."""
    return isinstance(format, TextFormat)


def text_piece(ids: list[int], target: Target = None, supervised: int = 1) -> Piece:
    """Return a row of one sequence of tokens."""
    return Piece({INPUT_IDS: ids}, target, supervised)


def text_of(values: Values, column: str) -> str | Dropped:
    """Return the text in a row's column, or why there is none."""
    text = values.get(column)
    if text is None:
        return Dropped("missing_text")
    return text if isinstance(text, str) else Dropped("text_not_a_string")


def encode_texts(
    examples: Sequence[Example], tokenizer: Tokenizer, max_tokens: int, special_tokens: SpecialTokens
) -> list[Encoded]:
    """Return one piece per text, special tokens included, cut to `max_tokens` by the tokenizer's own rule."""
    texts, split = [example.text for example in examples], special_tokens == "split"
    whole: list[list[int]] = tokenizer(texts, verbose=False, split_special_tokens=split)["input_ids"]
    encoded = [Encoded([text_piece(ids, example.target)]) for example, ids in zip(examples, whole, strict=True)]
    long = [i for i, ids in enumerate(whole) if len(ids) > max_tokens]
    if long:  # encoded again, since only the tokenizer knows which special tokens must survive the cut
        again = [texts[i] for i in long]
        cut = tokenizer(again, truncation=True, max_length=max_tokens, split_special_tokens=split)["input_ids"]
        for i, ids in zip(long, cut, strict=True):
            encoded[i] = Encoded([text_piece(ids, examples[i].target)], truncated=True)
    return encoded
