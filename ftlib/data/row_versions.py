"""Of every key the last version, and nothing of a key that was deleted.

The last version is the one of the latest moment (`updated`); a row without one is older than all others. Among equals
the file that is listed last counts, then the lowest line. A tombstone beats the rows of its own moment, and one without
a moment beats them all: a wish to be deleted must not be lost because of how a file is called.
"""

from __future__ import annotations

import hashlib
import math
from array import array
from typing import TYPE_CHECKING, Any, Literal

from ftlib.data.row_keys import DELETED, as_number, is_tombstone, moment_of, row_key
from ftlib.data.rows import BadRow, Row, Value
from ftlib.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


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
        """Say what is wrong with a row's key, moment or deletion mark; None if nothing is."""
        if row_key(row.values.get(self.key)) is None:
            value = row.values.get(self.key)
            return BadRow(row.uri, row.line, row.bytes, "missing_key", f"{value!r:.80} is no key", self.key)
        if is_tombstone(row.values.get(DELETED)) is None:
            value = row.values[DELETED]
            return BadRow(row.uri, row.line, row.bytes, "odd_deleted", f"{value!r:.80}, allowed: true, false", DELETED)
        if self.updated and moment_of(row.values.get(self.updated)) is None:
            value = row.values[self.updated]
            detail = f"{value!r:.80} is neither a number nor an ISO 8601 date"
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

    def by_key(self) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return the order of all versions by key and, within one, from the oldest; and which end their key there.

        A version's number counts rows and tombstones as they came. Raises DataError if some moments are numbers and
        others dates, which have no common order.
        """
        import numpy as np

        if len(self._kinds) > 1:
            raise DataError(
                f"updated: column {self.updated!r} says {self._kinds['numbers']!r} and {self._kinds['dates']!r}, "
                "allowed are all numbers or all ISO 8601 dates; write one of them"
            )
        keys: Any = np.frombuffer(self._keys, np.uint64).reshape(-1, 2)
        places: Any = np.frombuffer(self._places, np.int64)
        order: Any = np.lexsort((self._files, places < 0, self._moments, keys[:, 1], keys[:, 0]))
        ends = np.ones(len(order), np.bool_)
        ends[:-1] = (keys[order[1:]] != keys[order[:-1]]).any(axis=1)
        return order, ends

    def last(self) -> tuple[NDArray[np.bool_], dict[str, int]]:
        """Return which of the kept rows are the last of their keys, and how many of the others there are by reason.

        Raises DataError if some moments are numbers and others dates, which have no common order.
        """
        import numpy as np

        order, ends = self.by_key()
        places: Any = np.frombuffer(self._places, np.int64)
        last = places[order[ends]]
        kept = np.zeros(len(places) - self.tombstones, np.bool_)
        kept[last[last >= 0]] = True
        sizes = np.diff(np.flatnonzero(ends), prepend=-1)
        buried = int(sizes[last < 0].sum()) - self._tombstones_of(order, ends, places, last)
        counts = {"deleted": buried, "tombstone": self.tombstones, "superseded": int((~kept).sum()) - buried}
        return kept, {reason: count for reason, count in counts.items() if count}

    @staticmethod
    def _tombstones_of(order: Any, ends: Any, places: Any, last: Any) -> int:
        """Count the tombstones among the versions of deleted keys."""
        import numpy as np

        group = np.cumsum(ends) - ends  # the number of each version's key, in the order of keys
        return int(((places[order] < 0) & (last < 0)[group]).sum())
