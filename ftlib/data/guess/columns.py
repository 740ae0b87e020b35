"""A column of a sample: what its values are, and what its name says."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from ftlib.data.formats.labeled_text import label_name
from ftlib.data.row_keys import as_date, as_number
from ftlib.data.rows import Dropped, Value
from ftlib.wording import some

_MOST = 0.95
"""The share of a column's values that must be of a sort; the others go to quarantine, or are dropped."""


@dataclass(frozen=True)
class Column:
    """One column of a sample."""

    name: str
    values: Sequence[Value]
    """Those that are not null."""
    rows: int
    """Of the whole sample."""

    @property
    def words(self) -> list[str]:
        """Return the words of its name: `createdAt` and `created_at` say the same."""
        return re.findall(r"[a-z]+|\d+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", self.name).lower())

    def called(self, names: Iterable[str]) -> bool:
        """Say whether its name, or its name's last word, is one of these."""
        return "".join(self.words) in {name.replace("_", "") for name in names} or self.words[-1:] in [
            [name] for name in names
        ]

    @cached_property
    def full(self) -> bool:
        """Say whether nearly every row has a value."""
        return len(self.values) >= _MOST * self.rows > 0

    @cached_property
    def counts(self) -> Counter[str]:
        """Return how often each value is there, as JSON writes it."""
        return Counter(json.dumps(value, sort_keys=True, default=str) for value in self.values)

    @cached_property
    def is_text(self) -> bool:
        """Say whether its values are texts that are neither numbers nor moments."""
        return self._most(lambda v: isinstance(v, str)) and not self.is_number and not self.is_moment

    @cached_property
    def is_number(self) -> bool:
        """Say whether its values are numbers, or texts that spell one."""
        return self._most(lambda v: as_number(v) is not None)

    @cached_property
    def is_whole(self) -> bool:
        """Say whether its values are whole numbers, written without a point."""
        return self._most(lambda v: re.fullmatch(r"\s*-?\d{1,9}\s*", str(v)) is not None and not isinstance(v, bool))

    @cached_property
    def is_moment(self) -> bool:
        """Say whether its values are dates or moments, as ISO 8601 writes them with dashes."""
        return self._most(lambda v: isinstance(v, str) and "-" in v.strip()[1:] and as_date(v) is not None)

    @cached_property
    def names(self) -> bool:
        """Say whether its values can be labels, and some of them repeat."""
        seen = len(self.counts)
        labels = self._most(lambda v: not isinstance(label_name(v), Dropped))
        return labels and not self.is_moment and 2 <= seen <= min(500, len(self.values) // 2) and self.length < 80

    @cached_property
    def length(self) -> float:
        """Return the characters of a value, on average."""
        return sum(len(str(value)) for value in self.values) / max(len(self.values), 1)

    @property
    def seen(self) -> str:
        """Say which values it has, the frequent ones first."""
        values = [value if len(value) <= 32 else f"{value[:31]}…" for value, _ in self.counts.most_common()]
        return f"{len(values):,} values: {some(values, 6)}"

    def _most(self, holds: Callable[[Value], bool]) -> bool:
        return bool(self.values) and sum(map(holds, self.values)) >= _MOST * len(self.values)


def columns(rows: Sequence[dict[str, Value]]) -> list[Column]:
    """Return the columns of a sample, in the order of their first rows, but for those that are always empty."""
    names = dict.fromkeys(name for row in rows for name in row)
    found = (Column(name, [v for row in rows if (v := row.get(name)) not in (None, "")], len(rows)) for name in names)
    return [column for column in found if column.values]


def first_of(table: Sequence[Column], names: Sequence[str]) -> Column | None:
    """Return the first column that is called one of these."""
    wanted = {name.replace("_", "") for name in names}
    return next((column for column in table if "".join(column.words) in wanted), None)


def holds(column: Column, test: Callable[[Value], bool]) -> bool:
    """Say whether a test holds of most of a column's values."""
    return bool(column.values) and sum(map(test, column.values)) > len(column.values) / 2
