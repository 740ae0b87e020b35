"""Batches as a pure function of (seed, epoch, position): the same global batches for any number of workers.

Rows are bucketed by length: an epoch's permutation is cut into mega-batches, each sorted by length and cut into global
batches, whose order is then shuffled. Padding all but vanishes while the order stays random at the scale of a
mega-batch. A rank takes every world-th row of a global batch, so all ranks get rows of like length.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Int

MEGA_BATCH = 64
"""Global batches that are sorted by length together: larger pads less, smaller mixes more."""


def by_length(lengths: Int[np.ndarray, " rows"], size: int) -> list[Int[np.ndarray, " batch"]]:
    """Return all rows in batches of `size`, longest first: the fixed order of every forward-only pass."""
    order = np.argsort(-lengths, kind="stable")
    return [order[i : i + size] for i in range(0, len(order), size)]


def global_batches(
    lengths: Int[np.ndarray, " rows"], size: int, seed: int, epoch: int
) -> list[Int[np.ndarray, " batch"]]:
    """Return an epoch's global batches in order: every row once, `ceil(rows / size)` batches, one of them smaller.

    A pure function of its arguments, so a resumed run needs no saved sampler, only its position.
    """
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(len(lengths))
    batches: list[Int[np.ndarray, " batch"]] = []
    for start in range(0, len(order), size * MEGA_BATCH):
        mega = order[start : start + size * MEGA_BATCH]
        mega = mega[np.argsort(-lengths[mega], kind="stable")]
        batches += [mega[i : i + size] for i in range(0, len(mega), size)]
    return [batches[i] for i in random.permutation(len(batches))]


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
