"""Where every row goes, to a split or out, found block by block and part by part for any number of rows.

A block is cleaned and keyed in one call; its records, of 49 bytes a row, are dealt out by their texts' keys, so that
copies of a text meet in one part, there with those of the guards. This process keeps a byte a row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ftlib.data.assignment import LEAKED, clean_example, need_columns, own_key
from ftlib.data.dataset import Dataset
from ftlib.data.datasets import RawDataset
from ftlib.data.identity import text_key
from ftlib.data.passes.exchange import Dealt, Exchange, part_of
from ftlib.data.passes.executor import Executor, parts_of
from ftlib.data.passes.ordering import Ordered, id_numbers, label_hash
from ftlib.data.prepared import SPLITS
from ftlib.data.rows import Example, Value
from ftlib.data.snapshot import Block, blocks_of, read_snapshot
from ftlib.data.splitting import Keyed, share, split_rows

BLOCK_BYTES = 16 << 20
"""Of a snapshot's rows that one call works on."""
_RECORD_BYTES = 49 * 4
"""What a record takes while its part is sorted."""
_RECORD = np.dtype(
    [("key", np.uint64, 2), ("id", np.uint64, 2), ("label", np.uint64), ("row", np.int64), ("place", "u1")]
)
_KEPT = np.dtype([("key", np.uint64, 2), ("row", np.int64)])
UNSETTLED = ""
_FIRST: tuple[str, ...] = (UNSETTLED, *SPLITS, "duplicate", "conflicting_labels", LEAKED[0], "no_split_value")
_TRAIN, _VALIDATION, _TEST = (_FIRST.index(split) for split in SPLITS)
_DUPLICATE, _CONFLICT, _LEAKED, _NO_VALUE = range(4, 8)
_CHUNK = 16 << 20
"""Places that a call reads at a time."""


class Placement:
    """The place of every row, a byte each."""

    def __init__(self, rows: int) -> None:
        self.codes = np.zeros(rows, np.uint8)
        self.names = [*_FIRST]
        self.spellings: Counter[str] = Counter()
        """Rows by label as it is written."""
        self.beyond: NDArray[np.bool_] | None = None
        """Which rows a retraining's replay leaves out where they are old."""

    @property
    def rows(self) -> int:
        """Return how many rows there are."""
        return len(self.codes)

    def code(self, name: str) -> int:
        """Return what stands for a place."""
        if name not in self.names:
            self.names.append(name)
        return self.names.index(name)

    def put(self, start: int, codes: NDArray[np.uint8], names: Sequence[str]) -> None:
        """Take the places of a block, whose codes are numbers of `names`."""
        self.codes[start : start + len(codes)] = np.array([self.code(name) for name in names], np.uint8)[codes]

    def places(self, start: int, stop: int) -> list[str]:
        """Return the places of a block's rows."""
        return [self.names[code] for code in self.codes[start:stop].tolist()]

    def trains(self) -> NDArray[np.bool_]:
        """Return which rows train."""
        return self.codes == _TRAIN

    def drop(self, rows: NDArray[Any], reason: str) -> None:
        """Drop rows, given by their numbers or a mask."""
        self.codes[rows] = self.code(reason)

    def dropped(self) -> dict[str, int]:
        """Return how many rows were dropped for each reason."""
        counts = np.bincount(self.codes, minlength=len(self.names)).tolist()
        return {name: n for name, n in sorted(zip(self.names, counts, strict=True)) if n and name not in SPLITS}


class Placing(NamedTuple):
    """A dataset whose rows get their places, and where its passes leave their files."""

    tag: str
    raw: RawDataset
    dataset: Dataset
    blocks: tuple[Block, ...]
    exchange: Exchange
    replay_share: float | None = None

    @classmethod
    def of(
        cls, tag: str, raw: RawDataset, dataset: Dataset, exchange: Exchange, least: int, replay: float | None = None
    ) -> Placing:
        """Cut a dataset into blocks."""
        return cls(tag, raw, dataset, tuple(blocks_of(raw.path / "rows.parquet", least)), exchange, replay)

    @property
    def rows(self) -> int:
        """Return how many rows there are."""
        return self.blocks[-1].stop if self.blocks else 0

    @property
    def places(self) -> str:
        """Return the name of the file of its rows' places."""
        return f"{self.tag}-places"

    def examples(self, block: Block) -> Iterator[tuple[str, Any, Example | str]]:
        """Yield (row id, values, example or the reason why there is none) of a block's rows."""
        for row_id, values in read_snapshot(self.raw.path / "rows.parquet", block.start, block.stop):
            yield row_id, values, clean_example(self.dataset, values)

    def write_places(self, placement: Placement) -> None:
        """Let calls know where rows go by now."""
        self.exchange.write_array(self.places, placement.codes)

    def places_of(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the codes of rows, whose numbers ascend, out of the file."""
        places = np.zeros(len(rows), np.uint8)
        for start in range(0, self.rows, _CHUNK):
            stop = min(start + _CHUNK, self.rows)
            first, last = np.searchsorted(rows, [start, stop])
            if first < last:
                places[first:last] = self.exchange.slice_of(self.places, np.uint8, start, stop)[
                    rows[first:last] - start
                ]
        return places


class _Scanned(NamedTuple):
    """What one call has seen of a block; its records are in the exchange."""

    block: Block
    codes: NDArray[np.uint8]
    names: tuple[str, ...]
    spellings: Counter[str]
    beyond: NDArray[np.bool_] | None
    dealt: Dealt
    ordered: Ordered | None


def key_parts(placings: Iterable[Placing], executor: Executor) -> int:
    """Return into how many parts the keys of datasets are dealt that are compared with each other."""
    return max(parts_of(executor, placing.rows, _RECORD_BYTES) for placing in placings)


def place(placing: Placing, where: str, executor: Executor, parts: int) -> tuple[Placement, list[Dealt]]:
    """Return every row's place by itself, and the keys of those that stay, dealt out by part.

    Raises DataError for an absent column or a value that has no place, naming `where`.
    """
    raw, dataset, policy = placing.raw, placing.dataset, placing.dataset.split
    need_columns(raw, dataset, where)
    placement, dealt, ordered = Placement(placing.rows), list[Dealt](), list[Ordered]()
    if placing.replay_share is not None:
        placement.beyond = np.zeros(placing.rows, np.bool_)
    for scanned in executor.map(partial(_scan, placing, parts), placing.blocks):
        placement.put(scanned.block.start, scanned.codes, scanned.names)
        placement.spellings.update(scanned.spellings)
        dealt.append(scanned.dealt)
        if scanned.ordered is not None:
            ordered.append(scanned.ordered)
        if placement.beyond is not None and scanned.beyond is not None:
            placement.beyond[scanned.block.start : scanned.block.stop] = scanned.beyond
    split_first = bool(policy.column or dataset.key)
    if ordered and split_first:
        _settle(placement, dataset, ordered)
        placing.write_places(placement)
        dealt = list(executor.map(partial(_stamped, placing, parts), [*zip(placing.blocks, dealt, strict=True)]))
    kept: list[Dealt] = []
    for duplicates, conflicts, staying in executor.map(partial(_distinct, placing, dealt), range(parts)):
        placement.codes[duplicates], placement.codes[conflicts] = _DUPLICATE, _CONFLICT
        kept.append(staying)
    if ordered and not split_first:
        _settle(placement, dataset, ordered)
    placing.exchange.forget(*(one.name for one in dealt))
    return placement, kept


def drop_leaked(
    own: tuple[Placing, Placement, list[Dealt]],
    guards: Sequence[tuple[Placing, Placement, list[Dealt]]],
    executor: Executor,
) -> None:
    """Take out of train every row whose text is held out, here or in a guard; out of validation those in test."""
    for placing, placement, _ in (own, *guards):
        placing.write_places(placement)
    placing, placement, kept = own
    others = [(guard, of_guard) for guard, _, of_guard in guards]
    for rows in executor.map(partial(_leaked, placing, kept, others), range(len(kept))):
        placement.codes[rows] = _LEAKED


def _scan(placing: Placing, parts: int, block: Block) -> _Scanned:
    """Clean and key a block's rows, and deal their records out by key."""
    dataset, policy = placing.dataset, placing.dataset.split
    names: dict[str, int] = {name: code for code, name in enumerate(_FIRST)}
    codes = np.zeros(block.stop - block.start, np.uint8)
    spellings: Counter[str] = Counter()
    rows: list[int] = []
    keyed: list[Keyed] = []
    beyond = None if placing.replay_share is None else np.zeros(len(codes), np.bool_)
    for i, (row_id, values, example) in enumerate(placing.examples(block)):
        if isinstance(example, str):
            codes[i] = names.setdefault(example, len(names))
            continue
        key = text_key(example.text)
        if dataset.format.names_labels:
            spellings.update(example.labels)
        value: Value = values.get(policy.column) if policy.column else None
        keyed.append(Keyed(row_id, key, example.label, value, own_key(dataset, values)))
        rows.append(i)
        if beyond is not None:
            beyond[i] = share("replay", key) >= (placing.replay_share or 0.0)
    places = np.array(rows, np.int64)
    ordered = None
    if policy.by in ("stratified", "time"):
        ordered = Ordered.of(policy, keyed, block.start + places)
    else:
        codes[places] = [_NO_VALUE if split is None else names[split] for split in split_rows(policy, keyed)]
    records = _records(keyed, block.start + places, codes[places])
    records = records[records["place"] != _NO_VALUE]
    dealt = placing.exchange.deal(
        f"{placing.tag}-keys-{block.number}", records, part_of(records["key"][:, 0], parts), parts
    )
    return _Scanned(block, codes, tuple(names), spellings, beyond, dealt, ordered)


def _records(keyed: Sequence[Keyed], rows: NDArray[np.int64], places: NDArray[np.uint8]) -> NDArray[np.void]:
    records = np.zeros(len(keyed), _RECORD)
    if keyed:
        records["key"] = np.frombuffer(b"".join(row.key for row in keyed), np.uint64).reshape(-1, 2)
        records["id"] = id_numbers([row.row_id for row in keyed])
    records["label"] = [label_hash(row.label) for row in keyed]
    records["row"], records["place"] = rows, places
    return records


def _settle(placement: Placement, dataset: Dataset, ordered: Iterable[Ordered]) -> None:
    """Give the rows that are still without one their splits, where those depend on all of them."""
    together = Ordered.joined(ordered)
    together = together.among(placement.codes[together.rows] == 0)
    codes = np.array([_NO_VALUE, _TRAIN, _VALIDATION, _TEST], np.uint8)
    placement.codes[together.rows] = codes[together.cut(dataset.split)]


def _stamped(placing: Placing, parts: int, item: tuple[Block, Dealt]) -> Dealt:
    """Write a block's records again, with the places that their rows have by now."""
    block, dealt = item
    records = np.frombuffer(placing.exchange.path(dealt.name).read_bytes(), _RECORD).copy()
    codes = placing.exchange.slice_of(placing.places, np.uint8, block.start, block.stop)
    records["place"] = codes[records["row"] - block.start]
    records = records[records["place"] != _NO_VALUE]
    name = f"{placing.tag}-stamped-{block.number}"
    return placing.exchange.deal(name, records, part_of(records["key"][:, 0], parts), parts)


def _distinct(
    placing: Placing, dealt: Sequence[Dealt], part: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], Dealt]:
    """Return the rows of a part that are copies, those that contradict others of their text, and where the rest is.

    One row stays per place and text: the one of the smallest id, whatever the order; none if labels contradict.
    """
    records = placing.exchange.gathered(dealt, part, _RECORD)
    staying = np.ones(len(records), np.bool_)
    none = np.zeros(0, np.int64)
    duplicates, conflicts = none, none
    if placing.dataset.cleaning.deduplicate and len(records):
        key, ids = records["key"], records["id"]
        order: Any = np.lexsort((records["row"], ids[:, 1], ids[:, 0], key[:, 1], key[:, 0], records["place"]))
        of, place = key[order], records["place"][order]
        firsts = np.ones(len(order), np.bool_)
        firsts[1:] = (of[1:] != of[:-1]).any(axis=1) | (place[1:] != place[:-1])
        starts, group = np.flatnonzero(firsts), np.cumsum(firsts) - 1
        labels = records["label"][order]
        differ = (np.minimum.reduceat(labels, starts) != np.maximum.reduceat(labels, starts))[group]
        duplicates = records["row"][order[~firsts & ~differ]]
        conflicts = records["row"][order[differ]]
        staying[order] = firsts & ~differ
    kept = np.zeros(int(staying.sum()), _KEPT)
    kept["key"], kept["row"] = records["key"][staying], records["row"][staying]
    return duplicates, conflicts, placing.exchange.deal_bytes(f"{placing.tag}-kept-{part}", [kept.tobytes()])


def _leaked(
    placing: Placing, kept: Sequence[Dealt], guards: Sequence[tuple[Placing, Sequence[Dealt]]], part: int
) -> NDArray[np.int64]:
    """Return the rows of a part whose text is held out where it should not be."""
    own, places = _kept_of(placing, kept[part])
    keys, held, tested = [own["key"]], [np.isin(places, (_VALIDATION, _TEST))], [places == _TEST]
    for guard, of_guard in guards:
        records, elsewhere = _kept_of(guard, of_guard[part])
        out = np.isin(elsewhere, (_VALIDATION, _TEST))
        keys.append(records["key"][out])
        held.append(np.ones(int(out.sum()), np.bool_))
        tested.append(np.zeros(int(out.sum()), np.bool_))
    if not len(own):
        return np.zeros(0, np.int64)
    key = np.concatenate(keys)
    order: Any = np.lexsort((key[:, 1], key[:, 0]))
    firsts = np.ones(len(order), np.bool_)
    firsts[1:] = (key[order[1:]] != key[order[:-1]]).any(axis=1)
    starts = np.flatnonzero(firsts)
    group = np.zeros(len(order), np.int64)
    group[order] = np.cumsum(firsts) - 1
    is_held = np.logical_or.reduceat(np.concatenate(held)[order], starts)[group[: len(own)]]
    is_tested = np.logical_or.reduceat(np.concatenate(tested)[order], starts)[group[: len(own)]]
    return own["row"][((places == _TRAIN) & is_held) | ((places == _VALIDATION) & is_tested)]


def _kept_of(placing: Placing, dealt: Dealt) -> tuple[NDArray[np.void], NDArray[np.uint8]]:
    records = placing.exchange.part(dealt, 0, _KEPT)
    return records, placing.places_of(records["row"])
