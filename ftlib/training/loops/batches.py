"""Batches as a pure function of (seed, epoch, position): the same global batches for any number of workers.

Rows are bucketed by length: a permutation of them is cut into mega-batches, each sorted by length and cut into global
batches, whose order is then shuffled. Padding all but vanishes while the order stays random at the scale of a
mega-batch. A rank takes every world-th row of a global batch, so all ranks get rows of like length.

A batch has a number of rows, or as many as a budget of tokens holds once they are padded.

A phase's data is one dataset, or a mixture of several parts. Each global batch is of one part, or has rows of all that
lie in one split, part after part; a part's rows have an order of their own, which goes on where the epoch before left
it.
"""

from __future__ import annotations

import heapq
import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int
from typing_extensions import override

from ftlib.errors import TrainingError

MEGA_BATCH = 64
"""Global batches that are sorted by length together: larger pads less, smaller mixes more."""


def by_length(
    lengths: Int[np.ndarray, " rows"], size: int, tokens: int | None = None
) -> list[Int[np.ndarray, " batch"]]:
    """Return all rows in batches, longest first: the fixed order of every forward-only pass.

    A batch has `size` rows, or those that `tokens` hold.
    """
    order = np.argsort(-lengths, kind="stable")
    if tokens is not None:
        return _within(order, lengths[order], tokens)
    return [order[i : i + size] for i in range(0, len(order), size)]


def global_batches(
    lengths: Int[np.ndarray, " rows"], size: int, seed: int, epoch: int, part: int = 0
) -> list[Int[np.ndarray, " batch"]]:
    """Return a part's global batches in order: every row once, `ceil(rows / size)` batches, one of them smaller.

    A pure function of its arguments, so a resumed run needs no saved sampler, only its position. Of a mixture `epoch`
    is the part's own: how often all of its rows were seen before.
    """
    # numpy pads a seed with zeros, so [seed, epoch, 0] is [seed, epoch]: the first part's order is a lone dataset's.
    random = np.random.default_rng([seed, epoch, part])
    order = random.permutation(len(lengths))
    batches: list[Int[np.ndarray, " batch"]] = []
    for start in range(0, len(order), size * MEGA_BATCH):
        mega = order[start : start + size * MEGA_BATCH]
        mega = mega[np.argsort(-lengths[mega], kind="stable")]
        batches += [mega[i : i + size] for i in range(0, len(mega), size)]
    return [batches[i] for i in random.permutation(len(batches))]


def token_batches(
    lengths: Int[np.ndarray, " rows"], tokens: int, seed: int, epoch: int, part: int = 0
) -> list[Int[np.ndarray, " batch"]]:
    """Return a part's global batches in order: every row once, each batch at most `tokens` once it is padded.

    A longer row is a batch of its own. Rows of one length change places from epoch to epoch, and what lengths a batch
    has does not: so every epoch has as many batches, and a schedule knows its steps. A pure function of its arguments.
    """
    random = np.random.default_rng([seed, epoch, part])
    order = random.permutation(len(lengths))
    order = order[np.argsort(-lengths[order], kind="stable")]
    batches = [order[places] for places in token_places(lengths, tokens, seed, part)]
    return [batches[i] for i in random.permutation(len(batches))]


def token_places(
    lengths: Int[np.ndarray, " rows"], tokens: int, seed: int, part: int = 0
) -> list[Int[np.ndarray, " batch"]]:
    """Return which places each global batch of `tokens` has in the order of the rows from the longest on."""
    if not len(lengths):
        return []
    longest_first = -np.sort(-lengths)
    megas = max(1, round(float(lengths.sum()) / (tokens * MEGA_BATCH)))
    # A seed of four numbers, by which no epoch's order is drawn.
    places = np.random.default_rng([seed, 0, part, 1]).permutation(len(lengths))
    sorted_places = [np.sort(mega) for mega in np.array_split(places, megas)]
    return [batch for mega in sorted_places for batch in _within(mega, longest_first[mega], tokens)]


def _within(
    rows: Int[np.ndarray, " rows"], lengths: Int[np.ndarray, " rows"], tokens: int
) -> list[Int[np.ndarray, " batch"]]:
    """Cut rows, given from the longest on, into batches that take in as many as `tokens` hold, and one at least."""
    batches: list[Int[np.ndarray, " batch"]] = []
    start = 0
    while start < len(rows):
        count = max(1, tokens // max(1, int(lengths[start])))
        batches.append(rows[start : start + count])
        start += count
    return batches


def batches_in(rows: int, size: int) -> int:
    """Return the global batches of one pass over so many rows."""
    return -(-rows // size)


def epoch_batches(
    lengths: Sequence[Int[np.ndarray, " _"]], size: int, seed: int, tokens: int | None = None
) -> list[int]:
    """Return the global batches of one pass over each part, whose rows have these lengths."""
    if tokens is None:
        return [batches_in(len(part), size) for part in lengths]
    return [len(token_places(part, tokens, seed, i)) for i, part in enumerate(lengths)]


def batches_of_parts(passes: Sequence[int], shares: Sequence[float]) -> list[int]:
    """Return how many of an epoch's global batches each part gives, of which one pass over it has `passes`.

    An epoch has as many batches as one pass over every part; each part gives its share of them, rounded by largest
    remainder, and at least one. `shares` sum to 1; parts have at least one row.
    """
    total = sum(passes)
    wanted = np.array(shares) * total
    given = np.maximum(1, np.floor(wanted)).astype(np.int64)
    while given.sum() < total:
        given[np.argmax(wanted - given)] += 1
    while given.sum() > total:  # small parts were given one
        given[np.argmax(np.where(given > 1, given - wanted, -np.inf))] -= 1
    return given.tolist()


@dataclass(frozen=True)
class GlobalBatch:
    """The rows of one optimiser step, over all workers."""

    part: int
    """The part that all its rows are of."""
    rows: Int[np.ndarray, " batch"]
    epoch: int = 0
    """How often all rows of the part were seen before."""


class _ByEpoch(ABC):
    """Global batches in an order that is drawn anew for each epoch; the last one that was asked for is kept."""

    steps_per_epoch: int
    _epoch: int = -1
    _batches: Sequence[GlobalBatch] = ()

    @abstractmethod
    def batches(self, epoch: int) -> list[GlobalBatch]:
        """Return an epoch's global batches in order."""

    def at(self, step: int) -> GlobalBatch:
        """Return the global batch of a step, from 0."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if self._epoch != epoch:
            self._epoch, self._batches = epoch, self.batches(epoch)
        return self._batches[position]


class Order(_ByEpoch):
    """A phase's global batches, by step: what a resumed run asks at its position and needs nothing else for."""

    def __init__(
        self,
        lengths: Sequence[Int[np.ndarray, " _"]],
        shares: Sequence[float],
        size: int,
        seed: int,
        tokens: int | None = None,
    ) -> None:
        """Settle how many batches of an epoch each part gives; `lengths` are those of each part's rows.

        A batch has `size` rows, or those that `tokens` hold.
        """
        self._lengths, self._size, self._seed, self._tokens = lengths, size, seed, tokens
        self._passes = epoch_batches(lengths, size, seed, tokens)
        self._given = batches_of_parts(self._passes, shares)
        self.steps_per_epoch = sum(self._given)

    @override
    def batches(self, epoch: int) -> list[GlobalBatch]:
        parts = np.repeat(np.arange(len(self._given)), self._given)
        # A seed that no part's rows are drawn by.
        order = np.random.default_rng([self._seed, epoch, len(self._given)]).permutation(parts)
        streams = [self._from(part, epoch * given) for part, given in enumerate(self._given)]
        return [next(streams[part]) for part in order]

    def _from(self, part: int, first: int) -> Iterator[GlobalBatch]:
        """Yield a part's batches from its `first` on: all its rows, then all of them again in another order."""
        passes, skipped = divmod(first, self._passes[part])
        for i in itertools.count(passes):
            for rows in self._pass(part, i)[skipped:]:
                yield GlobalBatch(part, rows, i)
            skipped = 0

    def _pass(self, part: int, epoch: int) -> list[Int[np.ndarray, " batch"]]:
        lengths = self._lengths[part]
        if self._tokens is None:
            return global_batches(lengths, self._size, self._seed, epoch, part)
        return token_batches(lengths, self._tokens, self._seed, epoch, part)


class MixedOrder(_ByEpoch):
    """As `Order`, of a split in which the parts' rows lie one after the other: a batch takes any of them.

    An epoch has as many rows as all parts together, and of each its share of them, rounded by largest remainder. Where
    an epoch has a row of the split again, for the k-th time, it is called row + k x the split's rows: what is drawn of
    it then, such as which of its words are hidden, is another draw.
    """

    def __init__(
        self,
        lengths: Int[np.ndarray, " split"],
        rows: Sequence[int],
        shares: Sequence[float],
        size: int,
        seed: int,
    ) -> None:
        """Settle how many rows of an epoch each part gives; `rows` are how many each has."""
        self._lengths, self._rows, self._size, self._seed = lengths, rows, size, seed
        self._given = batches_of_parts(rows, shares)
        self._starts = np.cumsum([0, *rows])
        self.steps_per_epoch = batches_in(sum(rows), size)
        self.times = max(map(_times, self._given, rows))
        """How often an epoch has one row at most."""

    @override
    def batches(self, epoch: int) -> list[GlobalBatch]:
        drawn = np.concatenate([self._drawn(part, epoch) for part in range(len(self._rows))])
        # A seed that no part's rows are drawn by.
        batches = global_batches(self._lengths[drawn], self._size, self._seed, epoch, len(self._rows))
        called = drawn + len(self._lengths) * _earlier(drawn)
        return [GlobalBatch(0, called[batch], epoch) for batch in batches]

    def _drawn(self, part: int, epoch: int) -> Int[np.ndarray, " drawn"]:
        """Return the rows that a part gives to an epoch: all of them before any is given again."""
        rows, given = self._rows[part], self._given[part]
        first, last = epoch * given // rows, ((epoch + 1) * given - 1) // rows
        passes = [np.random.default_rng([self._seed, i, part]).permutation(rows) for i in range(first, last + 1)]
        skipped = epoch * given - first * rows
        return self._starts[part] + np.concatenate(passes)[skipped : skipped + given]


def _times(given: int, rows: int) -> int:
    """Return how often one of so many rows can be among so many that are given, all of them before one again."""
    return given // rows if given % rows == 0 else (given + rows - 2) // rows + 1


def _earlier(rows: Int[np.ndarray, " drawn"]) -> Int[np.ndarray, " drawn"]:
    """Return for each place how often its row is at earlier places."""
    order = np.argsort(rows, kind="stable")
    sorted_rows, places = rows[order], np.arange(len(rows))
    firsts = np.maximum.accumulate(np.where(np.r_[True, sorted_rows[1:] != sorted_rows[:-1]], places, 0))
    earlier = np.empty_like(places)
    earlier[order] = places - firsts
    return earlier


def packs(
    rows: Int[np.ndarray, " batch"], sizes: Int[np.ndarray, " split"], rank: int, world_size: int, most: int
) -> list[tuple[Int[np.ndarray, " rows"], bool]]:
    """Return a rank's share of a global batch as (rows, counts) packs of at most `most` tokens each.

    A pure function of its arguments, for which every rank computes all packs: they are as few as hold the batch, in a
    multiple of the ranks, since sharded forward passes are collective; and of about equal size, as the ranks wait for
    the largest. Where a batch has fewer rows than that, a rank is given the batch's first row with `counts` False.

    Raises TrainingError for a row that is longer than a pack.
    """
    order = rows[np.argsort(-sizes[rows], kind="stable")]
    if (longest := int(sizes[order[0]])) > most:
        raise TrainingError(f"compute.pack_tokens: a row of {longest} tokens is longer than a pack, which has {most}")
    count = _multiple(-(-int(sizes[rows].sum()) // most), world_size)
    while (filled := _filled(order, sizes, count, most)) is None:
        count += world_size
    mine = filled[rank::world_size]
    return [(np.array(pack), True) if pack else (rows[:1], False) for pack in mine]


def _multiple(number: int, of: int) -> int:
    return -(-number // of) * of


def _filled(
    order: Int[np.ndarray, " batch"], sizes: Int[np.ndarray, " split"], count: int, most: int
) -> list[list[int]] | None:
    """Put each row, the longest first, into the emptiest of `count` packs; None where one does not fit in."""
    packs, filled = [list[int]() for _ in range(count)], [(0, i) for i in range(count)]
    for row in order.tolist():
        tokens, i = filled[0]
        if (tokens := tokens + int(sizes[row])) > most:
            return None
        packs[i].append(row)
        heapq.heapreplace(filled, (tokens, i))
    return packs


def micro_batches(
    rows: Int[np.ndarray, " batch"], rank: int, world_size: int, size: int | None
) -> list[tuple[Int[np.ndarray, " rows"], bool]]:
    """Return a rank's share of a global batch as (rows, counts) pieces of at most `size` rows.

    Every rank gets the same number of pieces, since sharded forward passes are collective: a rank with fewer rows
    repeats its batch's first row with `counts` False, which must weigh nothing.
    """
    most = -(-len(rows) // world_size)
    size = size or most
    mine = rows[rank::world_size]
    pieces = [(mine[i : i + size], True) for i in range(0, len(mine), size)]
    return pieces + [(rows[:1], False)] * (-(-most // size) - len(pieces))
