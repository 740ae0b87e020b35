"""One text, any number of labels."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, Literal

from pydantic import Field

from ftlib.config import BatchKind, SpecialTokens
from ftlib.data.formats.labeled_text import label_name
from ftlib.data.formats.spelt_lists import spells_list
from ftlib.data.formats.whole_text import WholeText
from ftlib.data.identity import identities
from ftlib.data.rows import Dropped, Example, Value, Values, slice_values


class MultiLabelText(WholeText):
    """A text column, or a pair of them, and a column of labels, none of which excludes another; a row may have none.

    The column holds a list, or with `separator` a text: `billing; bug`. An absent list is a dropped row; an absent
    text is a row without labels, since csv has no other way to write one.
    """

    kind: Literal["multi_label_text"] = "multi_label_text"
    text: str
    """The column that holds the text."""
    labels: str
    """The column that holds a row's labels."""
    pair: str | None = None
    """The column that holds a second text, which is read together with the first: a premise and a hypothesis."""
    separator: str | None = Field(default=None, min_length=1)
    """What lies between the labels of a text; unset, the column holds lists."""
    max_tokens: int = Field(default=256, gt=1)
    """Longer texts are cut; how many is reported."""
    special_tokens: SpecialTokens = "split"
    """Whether a text that spells one, `[SEP]` or `</s>`, is read as these characters, or as the token: `keep`."""
    slices: tuple[str, ...] = ()
    """Columns whose values split the evaluation report."""

    introduced: ClassVar[Mapping[str, object]] = {"pair": None}

    yields: ClassVar[BatchKind] = "multi_labeled"
    keeps_lines: ClassVar[bool] = False
    names_labels: ClassVar[bool] = True
    stratifies: ClassVar[bool] = True

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the columns that must be there."""
        return (*self.text_columns, self.labels, *self.slices)

    def example(self, values: Values) -> Example | Dropped:
        """Return text and labels of a row, or why it has none. The order of labels and their repetition say nothing."""
        texts, listed = self.texts(values), self._listed(values.get(self.labels))
        if isinstance(texts, Dropped):
            return texts
        if isinstance(listed, Dropped):
            return listed
        names: set[str] = set()
        for value in listed:
            name = label_name(value)
            if isinstance(name, Dropped):
                return name
            names.add(name)
        told_apart = identities(sorted(names))
        # As JSON, since any other separator may be part of a label: these sets must not be taken for one another.
        label = json.dumps(sorted(told_apart), ensure_ascii=False)
        slices, target = slice_values(values, self.slices), tuple(sorted(told_apart.values()))
        return replace(texts, label=label, slices=slices, target=target)

    def _listed(self, value: Value) -> Sequence[Value] | Dropped:
        if spells_list(value, self.separator):
            return Dropped("list_as_text")
        if self.separator is not None and (value is None or isinstance(value, str)):
            return [part for part in (value or "").split(self.separator) if part.strip()]
        if value is None:
            return Dropped("missing_label")
        return value if isinstance(value, list) else Dropped("labels_not_a_list")
