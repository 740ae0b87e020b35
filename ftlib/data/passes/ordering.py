"""Splits that depend on all rows, `time` and `stratified`, of numbers alone: 57 bytes a row while they are made."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from ftlib.data.identity import identity
from ftlib.data.row_keys import as_date, as_number
from ftlib.data.rows import Value
from ftlib.data.splitting import Keyed, SplitPolicy, border, odd_moment, rows_of_label, share


def label_hash(label: str | None) -> int:
    """Return 8 bytes for a label's identity; 0 for none."""
    return 0 if label is None else int.from_bytes(hashlib.blake2b(label.encode(), digest_size=8).digest())


def id_numbers(ids: Sequence[str]) -> NDArray[np.uint64]:
    """Return row ids as pairs of numbers, which have the ids' order."""
    return np.frombuffer(bytes.fromhex("".join(ids)), ">u8").astype(np.uint64).reshape(-1, 2)


class Ordered(NamedTuple):
    """What of rows settles their order."""

    rows: NDArray[np.int64]
    numbers: NDArray[np.float64]
    """Of `time`, the value as a number, NaN for none; of `stratified`, the hash's share."""
    dates: NDArray[np.float64]
    """Of `time`, the value as a date."""
    labels: NDArray[np.uint64]
    ids: NDArray[np.uint64]
    has_value: NDArray[np.bool_]
    odd: tuple[Value, ...]
    """The first value that is no number, if there is one."""

    @classmethod
    def of(cls, policy: SplitPolicy, keyed: Sequence[Keyed], rows: NDArray[np.int64]) -> Ordered:
        """Return it for rows, given with their numbers."""
        if policy.by == "time":
            has_value = np.array([identity(row.value) is not None for row in keyed], np.bool_)
            numbers, dates = (
                np.array([np.nan if (read := as_a(row.value)) is None else read for row in keyed], np.float64)
                for as_a in (as_number, as_date)
            )
            odd = tuple(keyed[i].value for i in np.flatnonzero(np.isnan(numbers) & has_value)[:1])
            nothing = np.zeros(len(keyed), np.uint64)
            return cls(rows, numbers, dates, nothing, np.zeros((len(keyed), 0), np.uint64), has_value, odd)
        numbers = np.array([share(policy.salt, row.settles) for row in keyed], np.float64)
        labels = np.array([label_hash(row.label) for row in keyed], np.uint64)
        ids, nothing = id_numbers([row.row_id for row in keyed]), np.zeros(len(keyed), np.float64)
        return cls(rows, numbers, nothing, labels, ids, np.ones(len(keyed), np.bool_), ())

    @classmethod
    def joined(cls, each: Iterable[Ordered]) -> Ordered:
        """Return it for the rows of all blocks."""
        blocks = list(each)
        odd = next((block.odd for block in blocks if block.odd), ())
        columns: list[Any] = [np.concatenate([cast("Any", block[i]) for block in blocks]) for i in range(6)]
        return cls(*columns, odd=odd)

    def among(self, some: NDArray[np.bool_]) -> Ordered:
        """Return it for some of the rows."""
        columns: list[Any] = [column[some] for column in self[:6]]
        return Ordered(*columns, odd=self.odd)

    def cut(self, policy: SplitPolicy) -> NDArray[np.int64]:
        """Return 1 for rows that train, 2 for validation, 3 for test, 0 for those without a value.

        Raises DataError for moments that have no common order.
        """
        return self._by_time(policy) if policy.by == "time" else self._stratified(policy)

    def _by_time(self, policy: SplitPolicy) -> NDArray[np.int64]:
        moments = next((m for m in (self.numbers, self.dates) if not np.isnan(m[self.has_value]).any()), None)
        if moments is None:
            raise odd_moment(policy.column, self.odd[0])
        ordered: Any = np.sort(moments[self.has_value])
        validation = border(ordered, 1.0 - policy.validation - policy.test)
        test = border(ordered, 1.0 - policy.test)
        held_out = np.where(moments >= test, 3, np.where(moments >= validation, 2, 1))
        return np.where(self.has_value, held_out, 0)

    def _stratified(self, policy: SplitPolicy) -> NDArray[np.int64]:
        order: Any = np.lexsort((self.rows, self.ids[:, 1], self.ids[:, 0], self.numbers, self.labels))
        splits = np.ones(len(order), np.int64)
        labels = self.labels[order]
        starts = np.flatnonzero(np.concatenate([[True], labels[1:] != labels[:-1]])) if len(order) else []
        for start, stop in zip(starts, [*starts[1:], len(order)], strict=True):
            test, validation = (rows_of_label(part, int(stop - start)) for part in (policy.test, policy.validation))
            splits[order[start : start + test]] = 3
            splits[order[start + test : min(start + test + validation, stop)]] = 2
        return splits
