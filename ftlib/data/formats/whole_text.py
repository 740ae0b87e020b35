"""What the formats have in common that read a text, or a pair of them, as a whole."""

from __future__ import annotations

import json
from abc import ABC
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from typing_extensions import override

from ftlib.data.cleaning import clean
from ftlib.data.formats.text import TextFormat, encode_texts, text_of
from ftlib.data.inputs import SEGMENTS, TEXT, Inputs, Marks
from ftlib.data.processor import Processor, Tokenizer
from ftlib.data.rows import Dropped, Encoded, Example, Values
from ftlib.errors import DataError

_BETWEEN = " | "
"""What stands between two texts where they are compared with other rows': cleaning would fold a line break."""


class WholeText(TextFormat, ABC):
    """A format of a text column, and maybe a second one, that the tokenizer lays out as one row."""

    if TYPE_CHECKING:  # fields of each, which stand where its users look for them
        text: str
        pair: str | None

    @property
    @override
    def pairs(self) -> bool:
        return self.pair is not None

    @property
    def text_columns(self) -> tuple[str, ...]:
        """Return the columns of what is read."""
        return (self.text,) if self.pair is None else (self.text, self.pair)

    def texts(self, values: Values) -> Example | Dropped:
        """Return an example of a row's texts, as yet without what it is taught, or why it has none.

        Both texts of a pair make a row what it is: copies, near copies and leaks are those of both.
        """
        text = text_of(values, self.text)
        if self.pair is None or isinstance(text, Dropped):
            return text if isinstance(text, Dropped) else Example(text)
        pair = text_of(values, self.pair)
        if isinstance(pair, Dropped):
            return pair
        parts = (clean(text), clean(pair))
        return Example(_BETWEEN.join(parts), parts=parts) if all(parts) else Dropped("empty_text")

    @override
    def asked(self, line: str) -> Example | None:
        if self.pair is None:
            return None
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        values = cast("Values", row) if isinstance(row, dict) else {}
        example = self.texts(values)
        if isinstance(example, Dropped):
            shown = json.dumps({name: "..." for name in self.text_columns}, ensure_ascii=False)
            raise DataError(f"a pair of texts is a JSON object on a line, {shown}; got {line[:60]!r}")
        return example

    @override
    def inputs(self, processor: Processor) -> Inputs:
        if self.pair is None or SEGMENTS not in processor.tokenizer("a", text_pair="a"):
            return TEXT
        return (*TEXT, Marks(name=SEGMENTS))

    def least_tokens(self, tokenizer: Tokenizer) -> int:
        """Return what `max_tokens` must be for one token of each text to be read."""
        return tokenizer.num_special_tokens_to_add(pair=self.pairs) + len(self.text_columns)

    def encode(self, examples: Sequence[Example], processor: Processor) -> list[Encoded]:
        """Return one piece per row, special tokens included, cut to `max_tokens` by the tokenizer's own rule.

        Of a pair, the longer text loses tokens first, and `token_type_ids` tell the two apart where the tokenizer makes
        them.
        """
        return encode_texts(examples, processor.tokenizer, self.max_tokens, self.special_tokens)
