"""Near copies among any number of rows: what `ftlib.data.near_duplicates` decides, group by group.

Whether a row is dropped depends only on rows that it shares a band with, and on those that these share one with, and so
on. Bands are dealt out by their hashes, and what shares one is joined (union-find); every group that comes of it is
decided in one call, by the same `near_copies`. This process keeps eight bytes a row.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from ftlib.config import Split
from ftlib.data.images.near_images import Looked, NearImages
from ftlib.data.near_duplicates import (
    SIDES,
    NearTexts,
    Reason,
    Side,
    Suspect,
    bands_and_rows,
    near_copies,
    own_shingles,
    sketch,
)
from ftlib.data.passes.exchange import Dealt, Exchange, part_of
from ftlib.data.passes.executor import Executor, parts_of
from ftlib.data.passes.placing import Placement, Placing
from ftlib.data.prepared import SPLITS
from ftlib.data.rows import Example
from ftlib.data.snapshot import Block
from ftlib.errors import DataError
from ftlib.storage.files import in_bytes

_BATCH = 1000
_BAND = np.dtype([("band", np.uint64), ("row", np.int64)])
_BAND_BYTES, _SUSPECT_BYTES = 16 * 5, 400
"""What a band's record takes while its part is sorted, and a suspect while its group is decided."""
_GROUPS = "near-groups"
_ROWS_OF_A_BIN = 20_000


class _Part(NamedTuple):
    """A dataset whose rows are looked at, and the number of its first row among all that are."""

    placing: Placing
    first: int
    guard: bool

    @property
    def looked_at(self) -> frozenset[Split]:
        return frozenset(SPLITS[1:] if self.guard else SPLITS)

    def side(self, split: Split) -> Side:
        return "elsewhere" if self.guard else split


def drop_near(
    own: tuple[Placing, Placement],
    guards: Sequence[tuple[Placing, Placement]],
    threshold: float,
    where: str,
    executor: Executor,
) -> None:
    """Take out of train what is near a held-out row, here or in a guard, or near another training row of its label.

    Out of validation goes what is near a test row of the same dataset. Raises DataError, naming `where`, for a group
    that no worker can hold.
    """
    exchange, rows = own[0].exchange, 0
    parts: list[_Part] = []
    for placing, placement in (own, *guards):
        placing.write_places(placement)
        parts.append(_Part(placing, rows, guard=bool(parts)))
        rows += placing.rows
    placement = own[1]
    if own[0].dataset.format.shows_images:
        _drop(placement, near_copies(_looked(parts), partial(NearImages, threshold)))
        return
    blocks = [(part, block) for part in parts for block in part.placing.blocks]
    groups = _groups(exchange, blocks, rows, threshold, executor)
    suspects = int((groups >= 0).sum())
    if not suspects:
        return
    exchange.write_array(_GROUPS, groups)
    bins = max(executor.workers, 1, suspects // _ROWS_OF_A_BIN)
    largest = int(np.bincount(groups[groups >= 0] % bins).max()) * _SUSPECT_BYTES
    if largest > executor.memory and executor.workers:
        raise DataError(
            f"{where}.cleaning.near_duplicates: rows that hang together by near copies take {in_bytes(largest)} beside "
            f"the program, and a worker has {in_bytes(executor.memory)}; raise compute.data_worker_memory_mb, or "
            "near_duplicates"
        )
    del groups
    dealt = list(executor.map(partial(_suspects, exchange, threshold, bins), blocks))
    for near in executor.map(partial(_near, exchange, threshold, dealt), range(bins)):
        _drop(placement, near)
    exchange.forget(_GROUPS, *(one.name for one in dealt))


def _drop(placement: Placement, near: Mapping[int, Reason]) -> None:
    for row, reason in near.items():
        placement.codes[row] = placement.code(reason)


def _looked(parts: Sequence[_Part]) -> Iterator[Looked]:
    """Yield the rows with what they look like; every image is decoded once, at some 400 bytes a row."""
    for part in parts:
        for block in part.placing.blocks:
            for number, row_id, example, split in _examples(part, block):
                if (sight := part.placing.dataset.format.sight(example)) is not None:
                    yield Looked(number, part.side(split), row_id, example.label, sight)


def _groups(
    exchange: Exchange, blocks: Sequence[tuple[_Part, Block]], rows: int, threshold: float, executor: Executor
) -> NDArray[np.int64]:
    """Return each row's group, which is the number of one of its rows; -1 for a row that shares no band."""
    parts = parts_of(executor, rows * bands_and_rows(threshold)[0], _BAND_BYTES)
    dealt = list(executor.map(partial(_bands, exchange, threshold, parts), blocks))
    parent = np.full(rows, -1, np.int64)
    for joined, roots in executor.map(partial(_sharing, exchange, dealt), range(parts)):
        fresh = joined[parent[joined] < 0]
        parent[fresh] = fresh
        _join(parent, joined, roots)
    exchange.forget(*(one.name for one in dealt))
    members = np.flatnonzero(parent >= 0)
    parent[members] = _roots(parent, members)
    return parent


def _join(parent: NDArray[np.int64], one: NDArray[np.int64], other: NDArray[np.int64]) -> None:
    """Join the groups of pairs of rows; a root's number falls with each step, so that no circle can form."""
    while len(one):
        roots, others = _roots(parent, one), _roots(parent, other)
        parent[one], parent[other] = roots, others
        differ = roots != others
        one, other = roots[differ], others[differ]
        parent[np.maximum(one, other)] = np.minimum(one, other)


def _roots(parent: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    roots = parent[rows]
    while ((above := parent[roots]) != roots).any():
        roots = above
    return roots


def _examples(part: _Part, block: Block) -> Iterator[tuple[int, str, Example, Split]]:
    """Yield (number among all rows, row id, example, split) of the rows that are looked at."""
    placing, wanted = part.placing, part.looked_at
    codes = placing.exchange.slice_of(placing.places, np.uint8, block.start, block.stop).tolist()
    for i, (row_id, _, example) in enumerate(placing.examples(block)):
        split = SPLITS[codes[i] - 1] if 0 < codes[i] <= len(SPLITS) else None
        if split is not None and split in wanted and isinstance(example, Example):
            yield part.first + block.start + i, row_id, example, split


def _bands(exchange: Exchange, threshold: float, parts: int, item: tuple[_Part, Block]) -> Dealt:
    """Deal out the bands of a block's rows."""
    part, block = item
    rows = ((number, example.text) for number, _, example, _ in _examples(part, block))
    each = [np.zeros(0, _BAND)]
    while batch := list(islice(rows, _BATCH)):
        sketches = sketch([text for _, text in batch], threshold)
        records = np.zeros(sketches.size, _BAND)
        records["band"] = sketches.ravel()
        records["row"] = np.repeat([number for number, _ in batch], sketches.shape[1])
        each.append(records)
    records = np.concatenate(each)
    name = f"{part.placing.tag}-bands-{block.number}"
    return exchange.deal(name, records, part_of(records["band"], parts), parts)


def _sharing(exchange: Exchange, dealt: Sequence[Dealt], part: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows that share a band of this part with others, and the first that each hangs together with."""
    records = exchange.gathered(dealt, part, _BAND)
    order: Any = np.argsort(records["band"], kind="stable")
    bands, rows = records["band"][order], records["row"][order]
    del records
    firsts = np.ones(len(order), np.bool_)
    firsts[1:] = bands[1:] != bands[:-1]
    starts = np.flatnonzero(firsts)
    group = np.cumsum(firsts) - 1
    shared = (np.diff(starts, append=len(order)) > 1)[group]
    members, first = rows[shared], rows[starts[group[shared]]]
    numbers, index = np.unique(np.concatenate([members, first]), return_inverse=True)
    parent = np.arange(len(numbers), dtype=np.int64)
    _join(parent, index[: len(members)], index[len(members) :])
    return numbers, numbers[_roots(parent, np.arange(len(numbers)))]


def _suspects(exchange: Exchange, threshold: float, bins: int, item: tuple[_Part, Block]) -> Dealt:
    """Deal out the suspects of a block by their groups."""
    part, block = item
    first = part.first + block.start
    groups = exchange.slice_of(_GROUPS, np.int64, first, part.first + block.stop)
    each: list[list[bytes]] = [[] for _ in range(bins)]
    rows = ((row, int(groups[row[0] - first])) for row in _examples(part, block) if groups[row[0] - first] >= 0)
    while batch := list(islice(rows, _BATCH)):
        sketches = sketch([example.text for (_, _, example, _), _ in batch], threshold)
        for ((number, row_id, example, split), group), bands in zip(batch, sketches.tolist(), strict=True):
            suspect = Suspect(number, part.side(split), row_id, example.label, bands, own_shingles(example.text))
            each[group % bins].append(_packed(suspect))
    return exchange.deal_bytes(f"{part.placing.tag}-suspects-{block.number}", map(b"".join, each))


def _near(exchange: Exchange, threshold: float, dealt: Sequence[Dealt], number: int) -> dict[int, Reason]:
    """Decide the groups of a bin, and return the rows to drop. A text is read again whenever it is compared."""
    suspects = (suspect for one in dealt for suspect in _stored(exchange.path(one.name), one, number))
    return near_copies(suspects, partial(NearTexts, threshold))


def _packed(suspect: Suspect) -> bytes:
    """Return a suspect as its lengths, what it is sorted by, and what it is compared by."""
    facts = msgspec.msgpack.encode(suspect[:4])
    compared = msgspec.msgpack.encode((suspect.bands, suspect.shingles.tobytes()))
    return len(facts).to_bytes(4) + len(compared).to_bytes(4) + facts + compared


def _stored(path: Path, dealt: Dealt, number: int) -> Iterator[_Stored]:
    """Yield the suspects of a bin, without what they are compared by."""
    position, end = dealt.span(number)
    with path.open("rb") as stream:
        while position < end:
            stream.seek(position)
            facts, compared = (int.from_bytes(stream.read(4)) for _ in range(2))
            place, side, row_id, label = msgspec.msgpack.decode(stream.read(facts))
            label = label and sys.intern(label)  # one text for all rows, not one for each
            yield _Stored(place, SIDES[SIDES.index(side)], row_id, label, path, position + 8 + facts, compared)
            position += 8 + facts + compared


class _Stored(NamedTuple):
    """A suspect whose bands and runs stay in the exchange's file."""

    place: int
    side: Side
    row_id: str
    label: str | None
    path: Path
    start: int
    size: int

    @property
    def bands(self) -> list[int]:
        return _compared(self.path, self.start, self.size)[0]

    @property
    def shingles(self) -> NDArray[np.uint32]:
        return _compared(self.path, self.start, self.size)[1]


@lru_cache(maxsize=1)
def _compared(path: Path, start: int, size: int) -> tuple[list[int], NDArray[np.uint32]]:
    with path.open("rb") as stream:
        stream.seek(start)
        bands, runs = msgspec.msgpack.decode(stream.read(size))
    return bands, np.frombuffer(runs, np.uint32)
