"""One text, one number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, Literal

from pydantic import Field

from ftlib.config import BatchKind, SpecialTokens
from ftlib.data.formats.whole_text import WholeText
from ftlib.data.row_keys import as_number
from ftlib.data.rows import Dropped, Example, Values, slice_values


class ScoredText(WholeText):
    """A text column, or a pair of them, and a column of finite numbers, for regression.

    A text that spells a number counts, as in csv.
    """

    kind: Literal["scored_text"] = "scored_text"
    text: str
    """The column that holds the text."""
    score: str
    """The column that holds the number to predict."""
    pair: str | None = None
    """The column that holds a second text, which is read together with the first: sentences that are alike."""
    max_tokens: int = Field(default=256, gt=1)
    """Longer texts are cut; how many is reported."""
    special_tokens: SpecialTokens = "split"
    """Whether a text that spells one, `[SEP]` or `</s>`, is read as these characters, or as the token: `keep`."""
    slices: tuple[str, ...] = ()
    """Columns whose values split the evaluation report."""

    introduced: ClassVar[Mapping[str, object]] = {"pair": None}

    yields: ClassVar[BatchKind] = "scored"
    keeps_lines: ClassVar[bool] = False

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the columns that must be there."""
        return (*self.text_columns, self.score, *self.slices)

    def example(self, values: Values) -> Example | Dropped:
        """Return text and score of a row, or why it has none."""
        texts, value = self.texts(values), values.get(self.score)
        if isinstance(texts, Dropped):
            return texts
        if value is None:
            return Dropped("missing_score")
        score = as_number(value)
        if score is None:
            return Dropped("score_not_a_number")
        # The number as label: copies of a text with different scores contradict each other.
        label, slices = f"{score + 0.0:.17g}", slice_values(values, self.slices)
        return replace(texts, label=label, slices=slices, target=score)
