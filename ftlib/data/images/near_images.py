"""Images that are nearly the same: difference hashes that differ in few of their 64 bits, under nearly one mean colour.

Hashes that differ in at most k bits agree in all bits of at least one of k + 1 bands (the pigeonhole principle), so
only rows that share a band are compared, and none that is near is missed. A band takes every (k + 1)-th bit, not
neighbours: images on a white ground agree in whole rows of the grid, and their bands would hold nearly all of them.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from typing import NamedTuple

import numpy as np

from ftlib.data.images.likeness import BITS, Sight
from ftlib.data.near_duplicates import Side

_COLOUR = 16
"""By how much of 255 each channel of the mean colour may differ: compression and scaling move it by one or two."""


class Looked(NamedTuple):
    """A row of an image."""

    place: int
    """Its place among all rows."""
    side: Side
    row_id: str
    label: str | None
    sight: Sight


def most_bits(threshold: float) -> int:
    """Return in how many of the 64 bits two images may differ of which at least this share agrees."""
    return int(BITS * (1 - threshold) + 1e-9)


class NearImages:
    """Images by band, and by label where that matters; images that look the same are one."""

    def __init__(self, threshold: float) -> None:
        """Take the share of the 64 bits that has to agree."""
        self._most = most_bits(threshold)
        self._masks = [sum(1 << bit for bit in range(first, BITS, self._most + 1)) for first in range(self._most + 1)]
        self._hashes: defaultdict[tuple[str | None, int, int], array[int]] = defaultdict(lambda: array("Q"))
        self._colours: defaultdict[tuple[str | None, int, int], array[int]] = defaultdict(lambda: array("B"))
        self._added: set[tuple[str | None, Sight]] = set()

    def add(self, row: Looked, label: str | None) -> None:
        """Take a row in."""
        if (label, row.sight) in self._added:
            return
        self._added.add((label, row.sight))
        for band, mask in enumerate(self._masks):
            key = label, band, row.sight.bits & mask
            self._hashes[key].append(row.sight.bits)
            self._colours[key].extend(row.sight.colour)

    def holds_near(self, row: Looked, label: str | None) -> bool:
        """Say whether a row that was added under this label is near."""
        return any(self._near((label, band, row.sight.bits & mask), row) for band, mask in enumerate(self._masks))

    def _near(self, key: tuple[str | None, int, int], row: Looked) -> bool:
        if key not in self._hashes:
            return False
        hashes = np.frombuffer(self._hashes[key], np.uint64)
        alike = np.bitwise_count(hashes ^ np.uint64(row.sight.bits)) <= self._most
        if not alike.any():
            return False
        colours = np.frombuffer(self._colours[key], np.uint8).reshape(-1, 3)[alike].astype(np.int16)
        return bool((np.abs(colours - np.array(row.sight.colour, np.int16)) <= _COLOUR).all(axis=1).any())
