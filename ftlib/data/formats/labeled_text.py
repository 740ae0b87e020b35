"""One text, one label."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, Literal

from pydantic import Field

from ftlib.config import BatchKind, SpecialTokens
from ftlib.data.formats.spelt_lists import spells_list
from ftlib.data.formats.whole_text import WholeText
from ftlib.data.identity import identity, written
from ftlib.data.rows import Dropped, Example, Value, Values, slice_values


class LabeledText(WholeText):
    """A text column, or a pair of them, and a label column, for sequence classification."""

    kind: Literal["labeled_text"] = "labeled_text"
    text: str
    """The column that holds the text."""
    label: str
    """The column that holds the label: a string, a whole number or a truth value."""
    pair: str | None = None
    """The column that holds a second text, which is read together with the first: a premise and a hypothesis."""
    max_tokens: int = Field(default=256, gt=1)
    """Longer texts are cut; how many is reported."""
    special_tokens: SpecialTokens = "split"
    """Whether a text that spells one, `[SEP]` or `</s>`, is read as these characters, or as the token: `keep`."""
    slices: tuple[str, ...] = ()
    """Columns whose values split the evaluation report."""

    introduced: ClassVar[Mapping[str, object]] = {"pair": None}

    yields: ClassVar[BatchKind] = "labeled"
    keeps_lines: ClassVar[bool] = False
    names_labels: ClassVar[bool] = True
    stratifies: ClassVar[bool] = True

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the columns that must be there."""
        return (*self.text_columns, self.label, *self.slices)

    def example(self, values: Values) -> Example | Dropped:
        """Return text and label of a row, or why it has none. Truth values and whole numbers are labels by name."""
        texts, label = self.texts(values), label_name(values.get(self.label))
        if isinstance(texts, Dropped):
            return texts
        if isinstance(label, Dropped):
            return label
        if spells_list(values.get(self.label)):
            return Dropped("list_as_text")
        return replace(texts, label=identity(label), slices=slice_values(values, self.slices), target=label)


def label_name(value: Value) -> str | Dropped:
    """Return a label as it is written, or why it is none. Truth values and whole numbers are labels by name."""
    if value is None:
        return Dropped("missing_label")
    # A column of whole numbers with a null is one of floats to most writers.
    if not isinstance(value, (str, bool, int)) and not (isinstance(value, float) and value.is_integer()):
        return Dropped("label_not_a_name")
    return Dropped("empty_label") if identity(value) is None else written(value)
