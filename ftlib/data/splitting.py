"""Which split a row goes to: pure functions of the rows, by salted hash where that is enough.

Under `random`, `group` and `given` a row's split depends on that row alone: rows that arrive later move nobody, and
where the dataset has a key, `random` hashes the key, so that an edited text does not move its row either.
Under `stratified` and `time` it depends on the others too: a new row can move the border past an old one.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import ClassVar, Literal, NamedTuple

from ftlib.config import Config, Fraction, Split
from ftlib.data.identity import folded, identity
from ftlib.data.row_keys import as_date, as_number
from ftlib.data.rows import Value
from ftlib.errors import DataError


class Keyed(NamedTuple):
    """What of a row can decide its split."""

    row_id: str
    key: bytes
    """The key of its text."""
    label: str | None
    value: Value
    """Its value in the policy's column."""
    row_key: bytes = b""
    """The row's own key, for a dataset that has one."""

    @property
    def settles(self) -> bytes:
        """Return what the split hashes: a row with a key stays on its side whatever becomes of its text."""
        return self.row_key or self.key


def split_rows(policy: SplitPolicy, rows: Sequence[Keyed]) -> list[Split | None]:
    """Return each row's split; None for one without a value in the column.

    Raises DataError for a value that has no place.
    """
    if policy.by == "random":
        return [_by_share(policy, row.settles) for row in rows]
    if policy.by == "stratified":
        return _stratified(policy, rows)
    placed = [i for i, row in enumerate(rows) if identity(row.value) is not None]
    decide: Callable[[SplitPolicy, Sequence[Keyed]], list[Split]] = {"group": _group, "time": _time, "given": _given}[
        policy.by
    ]
    splits: list[Split | None] = [None] * len(rows)
    for i, split in zip(placed, decide(policy, [rows[i] for i in placed]), strict=True):
        splits[i] = split
    return splits


def share(salt: str, key: bytes) -> float:
    """Return a number in [0, 1) that depends on the salt and the key alone, and is uniform over keys."""
    return int.from_bytes(hashlib.sha256(salt.encode() + b"\0" + key).digest()[:8]) / 2**64


def _by_share(policy: SplitPolicy, key: bytes) -> Split:
    point = share(policy.salt, key)
    if point < policy.test:
        return "test"
    return "validation" if point < policy.test + policy.validation else "train"


def _group(policy: SplitPolicy, rows: Sequence[Keyed]) -> list[Split]:
    return [_by_share(policy, (folded(row.value) or "").encode()) for row in rows]


def _stratified(policy: SplitPolicy, rows: Sequence[Keyed]) -> list[Split | None]:
    by_label: dict[str | None, list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        by_label[row.label].append(i)
    splits: list[Split | None] = ["train"] * len(rows)
    for members in by_label.values():
        members.sort(key=lambda i: (share(policy.salt, rows[i].settles), rows[i].row_id))
        test, validation = rows_of_label(policy.test, len(members)), rows_of_label(policy.validation, len(members))
        for i in members[:test]:
            splits[i] = "test"
        for i in members[test : test + validation]:
            splits[i] = "validation"
    return splits


def rows_of_label(fraction: float, rows: int) -> int:
    """Return the rows a split gets of a label: at least one where there are enough for three splits."""
    wanted = round(fraction * rows)
    return max(wanted, 1) if fraction > 0 and rows >= 3 else wanted


def _time(policy: SplitPolicy, rows: Sequence[Keyed]) -> list[Split]:
    """Cut at two moments: rows of one moment stay together, on the later side."""
    moments = _moments(policy.column, rows)
    ordered = sorted(moments)
    validation = border(ordered, 1.0 - policy.validation - policy.test)
    test = border(ordered, 1.0 - policy.test)
    return ["test" if m >= test else "validation" if m >= validation else "train" for m in moments]


def border(ordered: Sequence[float], fraction: float) -> float:
    """Return the moment at which a share of the rows, in ascending order, has ended."""
    # Rounded before it is cut down: 0.7 * 10 is 7.000000000000001 one way and 6.999999999999999 another.
    position = int(round(fraction * len(ordered), 6))
    return ordered[position] if position < len(ordered) else float("inf")


def _moments(column: str | None, rows: Sequence[Keyed]) -> list[float]:
    for read in (as_number, as_date):
        moments = [read(row.value) for row in rows]
        readable = [moment for moment in moments if moment is not None]
        if len(readable) == len(moments):
            return readable
    raise odd_moment(column, next(row.value for row in rows if as_number(row.value) is None))


def odd_moment(column: str | None, value: Value) -> DataError:
    """Return what to raise for moments that have no common order; `value` is the first that is no number."""
    return DataError(
        f"split by 'time': column {column!r} says {value!r}, allowed are all numbers or all ISO 8601 dates; correct "
        "the rows"
    )


def _given(policy: SplitPolicy, rows: Sequence[Keyed]) -> list[Split]:
    allowed: dict[str | None, Split] = {"train": "train", "validation": "validation", "test": "test"}
    words = [folded(row.value) for row in rows]
    for row, word in zip(rows, words, strict=True):
        if word not in allowed:
            names = ", ".join(allowed.values())
            raise DataError(
                f"split by 'given': column {policy.column!r} says {row.value!r}, allowed are {names}; correct the rows"
            )
    return [allowed[word] for word in words]


class SplitPolicy(Config):
    """Which rows train and which are held out; a pure function of the row, so a row never changes sides.

    random      by the salted hash of the row's cleaned text
    stratified  the same within each label, so every split has every label in proportion
    group       by the salted hash of `column`: no group is on two sides
    time        by `column` in ascending order: train, then validation, then test
    given       `column` says train, validation or test
    """

    by: Literal["random", "stratified", "group", "time", "given"] = "random"
    """What decides; `SplitPolicy` says what each word means."""
    column: str | None = None
    """The column that `group`, `time` and `given` read; the others read none."""
    validation: Fraction = 0.1
    """Share of the rows that early stopping and selection look at; `given` reads the column instead."""
    test: Fraction = 0.2
    """Share of the rows that nothing but the report and the gates look at; `given` reads the column instead."""
    salt: str = "reglage"
    """Hashed with every row: another salt puts other rows on each side."""

    needs_column: ClassVar[frozenset[str]] = frozenset({"group", "time", "given"})
