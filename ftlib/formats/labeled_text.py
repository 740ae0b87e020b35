"""One text, one label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from ftlib.cleaning import clean
from ftlib.config import BatchKind, Config
from ftlib.rows import Dropped, Encoded, Example, Tokenizer, Value, Values, slice_values


class LabeledText(Config):
    """A text column and a label column, for sequence classification."""

    kind: Literal["labeled_text"] = "labeled_text"
    text: str
    label: str
    max_tokens: int = Field(default=256, gt=1)
    """Longer texts are cut; how many is reported."""
    slices: tuple[str, ...] = ()
    """Columns whose values split the evaluation report."""

    yields: ClassVar[BatchKind] = "labeled"
    keeps_lines: ClassVar[bool] = False

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the columns that must be there."""
        return (self.text, self.label, *self.slices)

    def example(self, values: Values) -> Example | Dropped:
        """Return text and label of a row, or why it has none. Truth values and whole numbers are labels by name."""
        text, label = values.get(self.text), _label_name(values.get(self.label))
        if text is None:
            return Dropped("missing_text")
        if not isinstance(text, str):
            return Dropped("text_not_a_string")
        if isinstance(label, Dropped):
            return label
        return Example(text, label, slice_values(values, self.slices))

    def encode(self, texts: Sequence[str], tokenizer: Tokenizer) -> list[Encoded]:
        """Return one piece per text, special tokens included, cut to `max_tokens` by the tokenizer's own rule."""
        whole: list[list[int]] = tokenizer(list(texts), verbose=False)["input_ids"]
        encoded = [Encoded([ids]) for ids in whole]
        long = [i for i, ids in enumerate(whole) if len(ids) > self.max_tokens]
        if long:  # encoded again, since only the tokenizer knows which special tokens must survive the cut
            cut = tokenizer([texts[i] for i in long], truncation=True, max_length=self.max_tokens)["input_ids"]
            for i, ids in zip(long, cut, strict=True):
                encoded[i] = Encoded([ids], truncated=True)
        return encoded

    def supervised(self, piece: Sequence[int]) -> int:
        """Return how many targets a piece has: its label."""
        return 1


def _label_name(value: Value) -> str | Dropped:
    if value is None:
        return Dropped("missing_label")
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # a column of whole numbers with a null is one of floats to most writers
    if not isinstance(value, (str, bool, int)):
        return Dropped("label_not_a_name")
    return clean(str(value)) or Dropped("empty_label")
