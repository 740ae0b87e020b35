"""What the formats that a tokenizer reads have in common."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from typing_extensions import TypeIs

from ftlib.config import SpecialTokens
from ftlib.data.formats.base import FormatBase
from ftlib.data.inputs import INPUT_IDS, SEGMENTS
from ftlib.data.processor import Processor, Tokenizer
from ftlib.data.row_targets import Target
from ftlib.data.rows import Dropped, Encoded, Example, Piece, Values

_IMAGE = re.compile(r"\s*data:image/[\w.+-]+;base64,")
"""How a text begins that is an image, as tables and web pages spell one."""


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
    if not isinstance(text, str):
        return Dropped("text_not_a_string")
    return Dropped("image_as_text") if _IMAGE.match(text) else text


def encode_texts(
    examples: Sequence[Example], tokenizer: Tokenizer, max_tokens: int, special_tokens: SpecialTokens
) -> list[Encoded]:
    """Return one piece per text, special tokens included, cut to `max_tokens` by the tokenizer's own rule.

    An example of two parts is a pair of texts, of which the longer loses tokens first; its piece has `token_type_ids`
    where the tokenizer makes them.
    """
    split = special_tokens == "split"

    def pieces(of: Sequence[Example], **options: Any) -> Iterator[Piece]:
        texts = [[example.parts[i] if example.parts else example.text for example in of] for i in range(_texts_in(of))]
        made = tokenizer(*texts, split_special_tokens=split, **options)
        names = [name for name in (INPUT_IDS, SEGMENTS) if name in made]
        names = names if len(texts) > 1 else [INPUT_IDS]  # segments say nothing of one text
        for i, example in enumerate(of):
            yield Piece({name: made[name][i] for name in names}, example.target)

    encoded = [Encoded([piece]) for piece in pieces(examples, verbose=False)]
    long = [i for i, one in enumerate(encoded) if len(one.pieces[0].ids) > max_tokens]
    if long:  # encoded again, since only the tokenizer knows which special tokens must survive the cut
        again = pieces([examples[i] for i in long], truncation=True, max_length=max_tokens)
        for i, piece in zip(long, again, strict=True):
            encoded[i] = Encoded([piece], truncated=True)
    return encoded


def _texts_in(examples: Sequence[Example]) -> int:
    return max(1, len(examples[0].parts)) if examples else 1
