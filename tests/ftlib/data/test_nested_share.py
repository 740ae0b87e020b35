"""Which rows a share has: nested, stratified, whole examples, and no matter in which order."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ftlib.data.nested_share import nested_share

IDS = [f"{i:032x}" for i in range(400)]
LABELS = ["rare" if i % 20 == 0 else "often" for i in range(400)]


def of(share: float, seed: int = 0) -> set[str]:
    return {IDS[i] for i in np.flatnonzero(nested_share(IDS, LABELS, share, seed))}


@settings(max_examples=20)
@given(st.lists(st.floats(0.01, 0.99), min_size=2, max_size=4), st.integers(0, 99))
def test_smaller_shares_are_inside_larger_ones(shares: list[float], seed: int) -> None:
    parts = [of(share, seed) for share in sorted(shares)]
    assert all(less <= more for less, more in pairwise(parts))


def test_each_label_has_its_share_and_another_seed_other_rows() -> None:
    taken = of(0.25)
    assert Counter(LABELS[IDS.index(one)] for one in taken) == {"rare": 5, "often": 95}
    assert len(taken & of(0.25, seed=1)) < 50, "a quarter of a quarter by chance: 25"


def test_the_order_of_rows_changes_nothing_and_a_rare_label_stays() -> None:
    order = np.random.default_rng(0).permutation(len(IDS))
    again = nested_share([IDS[i] for i in order], [LABELS[i] for i in order], 0.3, 0)
    assert {IDS[i] for i, kept in zip(order, again, strict=True) if kept} == of(0.3)
    assert nested_share(["a", "b", "c"], ["x", "y", "y"], 0.01, 0)[0]


def test_pieces_of_an_example_stay_together() -> None:
    pieces = [f"{row}-{piece}" for row in IDS[:50] for piece in range(3)]
    kept = nested_share(pieces, [None] * len(pieces), 0.5, 0).reshape(50, 3)
    assert (kept.all(axis=1) | ~kept.any(axis=1)).all()
    assert kept.all(axis=1).sum() == 25
