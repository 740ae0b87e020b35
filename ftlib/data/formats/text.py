"""What the formats that a tokenizer reads have in common."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
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
    if not examples:
        return []
    texts = [*zip(*[one.parts or (one.text,) for one in examples], strict=True)]
    made, cut = tokens_within(tokenizer, texts, max_tokens, special_tokens)
    names = [INPUT_IDS] if len(texts) == 1 else [name for name in (INPUT_IDS, SEGMENTS) if name in made]
    return [  # segments say nothing of one text
        Encoded([Piece({name: made[name][i] for name in names}, example.target)], truncated=cut[i])
        for i, example in enumerate(examples)
    ]


def tokens_within(
    tokenizer: Tokenizer, texts: Sequence[Sequence[str]], max_tokens: int, special_tokens: SpecialTokens
) -> tuple[Mapping[str, Sequence[list[int]]], list[bool]]:
    """Return what the tokenizer makes of texts, or of pairs of them, within `max_tokens`, and which of them it cut.

    It cuts by its own rule: only it knows which special tokens must survive.
    """
    options: dict[str, Any] = {"split_special_tokens": special_tokens == "split", "verbose": False}
    made = tokenizer(*texts, truncation=True, max_length=max_tokens, return_attention_mask=False, **options)
    if made.encodings is not None:
        return made, [bool(one.overflowing) for one in made.encodings]
    # One that is written in Python does not say what it cut.
    whole: list[list[int]] = tokenizer(*texts, **options)[INPUT_IDS]
    return made, [len(ids) > max_tokens for ids in whole]
