"""Texts that are nearly the same: MinHash and locality-sensitive hashing find the candidates, exact Jaccard decides.

A text stands for the set of its runs of five characters, after what `ftlib.data.identity.folded` calls one is one. 128
minima of seeded hashes of that set (Broder 1997) are cut into bands; texts that share a band are candidates (Leskovec,
Rajaraman & Ullman, chapter 3). Whether candidates are near copies is then decided on the sets themselves, so nothing is
dropped that is less alike than asked; what is missed is what shares no band: less than 5 % of pairs at the threshold
itself, next to none above it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeVar, get_args

import numpy as np

from ftlib.data.identity import folded

if TYPE_CHECKING:
    from numpy.typing import NDArray

SHINGLE = 5
"""Characters of a run."""
PERMUTATIONS = 128
_RECALL = 0.95
"""Of pairs that are exactly as alike as the threshold; of more alike pairs more are found."""
_SEED = 42
_BUCKET, _CANDIDATES = 32, 64
"""Rows that a band remembers, and that a row is compared with: without a bound, a thousand rows made of one template
that are each a little less alike than the threshold would be compared with each other."""

Reason = Literal["near_leaked", "near_duplicate"]
Side = Literal["test", "validation", "elsewhere", "train"]
"""The side of the split a row is on, or `elsewhere`: held out in another dataset. In this order, rows are looked at."""
SIDES: tuple[Side, ...] = get_args(Side)


class Suspect(NamedTuple):
    """A row that shares a band with another one."""

    place: int
    """Its place among all rows."""
    side: Side
    row_id: str
    label: str | None
    bands: list[int]
    shingles: NDArray[np.uint32]


def bands_and_rows(threshold: float) -> tuple[int, int]:
    """Return how many bands of how many minima: the longest that still find `_RECALL` of pairs at the threshold."""
    for rows in range(PERMUTATIONS, 1, -1):
        bands = PERMUTATIONS // rows
        if 1.0 - (1.0 - threshold**rows) ** bands >= _RECALL:
            return bands, rows
    return PERMUTATIONS, 1


def shingles(texts: Sequence[str]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Return the hashed runs of all texts in one array, and where each text's begin and the last one's end.

    A text shorter than a run is one run by itself.
    """
    encoded = [(folded(text) or "").ljust(SHINGLE, "\0").encode("utf-32-le") for text in texts]
    lengths = np.array([len(data) // 4 for data in encoded], np.int64)
    characters = np.frombuffer(b"".join(encoded), np.uint32).astype(np.uint64)
    hashes = np.zeros(max(len(characters) - SHINGLE + 1, 0), np.uint64)
    for k in range(SHINGLE):
        hashes = hashes * np.uint64(0x9E3779B97F4A7C15) + characters[k : k + len(hashes)]
    within = np.ones(len(hashes), bool)
    ends = np.cumsum(lengths)
    for k in range(1, SHINGLE):  # runs that begin in one text and end in the next
        borders = ends - k
        within[borders[borders < len(hashes)]] = False
    return _mixed(hashes[within]), np.concatenate([[0], np.cumsum(lengths - SHINGLE + 1)])


def sketch(texts: Sequence[str], threshold: float) -> NDArray[np.uint64]:
    """Return the hash of every band of every text, shape [texts, bands]. Equal in a column: candidates."""
    rensa: Any = import_module("rensa")  # an extension module without stubs
    bands, rows = bands_and_rows(threshold)
    if not texts:
        return np.zeros((0, bands), np.uint64)
    hashes, offsets = shingles(texts)
    matrix = rensa.RMinHash.digest_matrix_from_flat_token_hashes(hashes, offsets.astype(np.uint64), PERMUTATIONS, _SEED)
    minima = np.array(matrix.to_rows(), np.uint64)[:, : bands * rows].reshape(len(texts), bands, rows)
    hashed = np.tile(np.arange(bands, dtype=np.uint64), (len(texts), 1))  # so that bands never meet each other
    for row in range(rows):
        hashed = _mixed(hashed * np.uint64(0x9E3779B97F4A7C15) + minima[:, :, row])
    return hashed


def _mixed(hashes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Spread every bit over the others (xorshift-multiply)."""
    hashes = (hashes ^ (hashes >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
    return hashes ^ (hashes >> np.uint64(32))


def own_shingles(text: str) -> NDArray[np.uint32]:
    """Return a text's runs, sorted and each once; half of the hash is enough to compare two texts."""
    return np.unique(shingles([text])[0].astype(np.uint32))


def jaccard(one: NDArray[np.uint32], other: NDArray[np.uint32]) -> float:
    """Return the size of the intersection over that of the union of two sorted sets."""
    common = np.intersect1d(one, other, assume_unique=True).size
    return common / (one.size + other.size - common)


class Row(Protocol):
    """A row that may be a near copy of another."""

    @property
    def place(self) -> int:
        """Return its place among all rows."""
        ...

    @property
    def side(self) -> Side:
        """Return the side of the split that it is on."""
        ...

    @property
    def row_id(self) -> str:
        """Return its id."""
        ...

    @property
    def label(self) -> str | None:
        """Return the identity of its label."""
        ...


class Shingled(Row, Protocol):
    """A row of text that shares a band with another one."""

    @property
    def bands(self) -> Sequence[int]:
        """Return the hashes of its bands."""
        ...

    @property
    def shingles(self) -> NDArray[np.uint32]:
        """Return its runs, sorted and each once."""
        ...


R = TypeVar("R", bound=Row, contravariant=True)


class Neighbours(Protocol[R]):
    """Rows that can be asked whether another is near one of them; under a label, those of that label alone."""

    def add(self, row: R, label: str | None) -> None:
        """Take a row in."""
        ...

    def holds_near(self, row: R, label: str | None) -> bool:
        """Say whether a row that was added under this label is near."""
        ...


def near_copies(rows: Iterable[R], nobody: Callable[[], Neighbours[R]]) -> dict[int, Reason]:
    """Return the validation and training rows to drop, by place.

    A validation row near a test row, and a training row near a held-out one that stays, is `near_leaked`, whatever its
    label. Of the other training rows, in the order of their ids, one near a row of the same label that stays is
    `near_duplicate`: near texts with different labels both stay, since the difference may be what the label hangs on.
    The order in which rows come decides nothing. `nobody` makes what holds no rows yet, and says what near means.
    """
    dropped: dict[int, Reason] = {}
    test, held_out, staying = nobody(), nobody(), nobody()
    for row in sorted(rows, key=lambda row: (SIDES.index(row.side), row.row_id, row.place)):
        if row.side == "test":
            test.add(row, None)
        if row.side == "validation" and test.holds_near(row, None):
            dropped[row.place] = "near_leaked"
        elif row.side != "train":
            held_out.add(row, None)
        elif held_out.holds_near(row, None):
            dropped[row.place] = "near_leaked"
        elif staying.holds_near(row, row.label):
            dropped[row.place] = "near_duplicate"
        else:
            staying.add(row, row.label)
    return dropped


class NearTexts:
    """Texts by band, and by label where that matters."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._rows: dict[tuple[str | None, int], list[int]] = defaultdict(list)
        self._shingles: dict[int, NDArray[np.uint32]] = {}
        """Of the rows that a band remembers: nobody is compared with others."""
        self._added = 0

    def add(self, row: Shingled, label: str | None) -> None:
        """Take a row in."""
        remembered = False
        for band in row.bands:
            if len(bucket := self._rows[label, band]) < _BUCKET:
                bucket.append(self._added)
                remembered = True
        if remembered:
            self._shingles[self._added] = row.shingles
        self._added += 1

    def holds_near(self, row: Shingled, label: str | None) -> bool:
        """Return whether a row that was added is near; those that share the most bands are looked at first."""
        shared = Counter(i for band in row.bands for i in self._rows.get((label, band), ()))
        return any(
            jaccard(row.shingles, self._shingles[i]) >= self._threshold for i, _ in shared.most_common(_CANDIDATES)
        )
