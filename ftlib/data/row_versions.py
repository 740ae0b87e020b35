"""Of every key the last version, and nothing of a key that was deleted.

The last version is the one of the latest moment (`updated`); a row without one is older than all others. Among equals
the file that is listed last counts, then the lowest line. A tombstone beats the rows of its own moment, and one without
a moment beats them all: a wish to be deleted must not be lost because of how a file is called.
"""

from __future__ import annotations

import hashlib
import math
from array import array
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from ftlib.data.row_keys import DELETED, as_number, is_tombstone, moment_of, row_key
from ftlib.data.rows import BadRow, Row, Value
from ftlib.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


_KEY, _MOMENT, _FILE, _PLACE = "key", "moment", "file", "place"


def version_type() -> np.dtype[np.void]:
    """Return the columns of a record of a version; `place` is that of a kept row, or -1 for a tombstone."""
    import numpy as np

    return np.dtype([(_KEY, np.uint64, 2), (_MOMENT, np.float64), (_FILE, np.int32), (_PLACE, np.int64)])


class RowVersions:
    """Collects versions as they are read. Costs 36 bytes a row, and some 60 more while `last` sorts them."""

    def __init__(self, key: str, updated: str | None) -> None:
        self.key = key
        self.updated = updated
        self.tombstones = 0
        self._keys = bytearray()
        self._moments = array("d")
        self._files = array("i")
        self._places = array("q")
        """Which of the kept rows it is; -1 for a tombstone."""
        self._kinds: dict[Literal["numbers", "dates"], Value] = {}

    def check(self, row: Row) -> BadRow | None:
        """Say what is wrong with a row's key, moment or deletion mark, last of all its value; None if nothing is."""
        if row_key(row.values.get(self.key)) is None:
            value = row.values.get(self.key)
            return BadRow(row.uri, row.line, row.bytes, "missing_key", f"no key: {value!r}", self.key)
        if is_tombstone(row.values.get(DELETED)) is None:
            value = row.values[DELETED]
            return BadRow(row.uri, row.line, row.bytes, "odd_deleted", f"neither true nor false: {value!r}", DELETED)
        if self.updated and moment_of(row.values.get(self.updated)) is None:
            value = row.values[self.updated]
            detail = f"neither a number nor an ISO 8601 date: {value!r}"
            return BadRow(row.uri, row.line, row.bytes, "odd_updated", detail, self.updated)
        return None

    def bury(self, row: Row, file: int | None) -> bool:
        """Take a row if it is a tombstone, and say whether it is."""
        if not is_tombstone(row.values.get(DELETED)):
            return False
        self.tombstones += 1
        self._add(row.values, file, place=-1, without=math.inf)
        return True

    def add(self, row: Row, file: int | None) -> None:
        """Take the next row that is kept."""
        self._add(row.values, file, place=len(self._places) - self.tombstones, without=-math.inf)

    def _add(self, values: dict[str, Value], file: int | None, place: int, without: float) -> None:
        key = row_key(values.get(self.key)) or ""
        self._keys += hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        value = values.get(self.updated) if self.updated else None
        moment = moment_of(value)
        if moment is not None and math.isfinite(moment):
            self._kinds.setdefault("dates" if as_number(value) is None else "numbers", value)
        self._moments.append(without if moment is None or moment == -math.inf else moment)
        self._files.append(-1 if file is None else file)
        self._places.append(place)

    @property
    def moments(self) -> Mapping[Literal["numbers", "dates"], Value]:
        """Return which kinds of moments there are, with the first of each."""
        return self._kinds

    def records(self) -> NDArray[np.void]:
        """Return all versions as they came."""
        import numpy as np

        records = np.zeros(len(self._places), version_type())
        records[_KEY] = np.frombuffer(self._keys, np.uint64).reshape(-1, 2)
        records[_MOMENT], records[_FILE], records[_PLACE] = self._moments, self._files, self._places
        return records

    def by_key(self) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return the order of all versions by key and, within one, from the oldest; and which end their key there.

        A version's number counts rows and tombstones as they came. Raises DataError if some moments are numbers and
        others dates, which have no common order.
        """
        check_moments(self.updated, self._kinds)
        return _by_key(self.records())

    def last(self) -> tuple[NDArray[np.bool_], dict[str, int]]:
        """Return which of the kept rows are the last of their keys, and how many of the others there are by reason.

        Raises DataError if some moments are numbers and others dates, which have no common order.
        """
        check_moments(self.updated, self._kinds)
        records = self.records()
        stays, counts = last_of(records)
        return stays[records[_PLACE] >= 0], counts


def check_moments(updated: str | None, moments: Mapping[Literal["numbers", "dates"], Value]) -> None:
    """Raise DataError if some moments are numbers and others dates, which have no common order."""
    if len(moments) > 1:
        raise DataError(
            f"updated: column {updated!r} says {moments['numbers']!r} and {moments['dates']!r}, "
            "allowed are all numbers or all ISO 8601 dates; write one of them"
        )


def last_of(records: NDArray[np.void]) -> tuple[NDArray[np.bool_], dict[str, int]]:
    """Return which versions are rows and the last of their keys, and how many others there are by reason.

    All versions of a key must be among the records, in the order in which they came.
    """
    import numpy as np

    order, ends = _by_key(records)
    buried = records[_PLACE] < 0
    last = order[ends]
    stays = np.zeros(len(records), np.bool_)
    stays[last] = ~buried[last]
    group = np.cumsum(ends) - ends  # the number of each version's key, in the order of keys
    deleted = int((buried[last][group] & ~buried[order]).sum())
    rows = int((~buried).sum())
    counts = {"deleted": deleted, "tombstone": int(buried.sum()), "superseded": rows - int(stays.sum()) - deleted}
    return stays, {reason: count for reason, count in counts.items() if count}


def _by_key(records: NDArray[np.void]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    import numpy as np

    keys: Any = records[_KEY]
    order: Any = np.lexsort((records[_FILE], records[_PLACE] < 0, records[_MOMENT], keys[:, 1], keys[:, 0]))
    ends = np.ones(len(order), np.bool_)
    ends[:-1] = (keys[order[1:]] != keys[order[:-1]]).any(axis=1)
    return order, ends
