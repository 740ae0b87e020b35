from __future__ import annotations

import hashlib
from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ftlib.data.splitting import Keyed, SplitPolicy, share, split_rows
from ftlib.errors import DataError


def rows(count: int, labels: int = 3, start: int = 0) -> list[Keyed]:
    return [
        Keyed(f"{i}", hashlib.sha256(b"%d" % i).digest()[:16], f"l{i % labels}", f"g{i // 7}")
        for i in range(start, start + count)
    ]


def policy(**fields: Any) -> SplitPolicy:
    return SplitPolicy.model_validate({"validation": 0.15, "test": 0.25, **fields})


@pytest.mark.parametrize("by", [{"by": "random"}, {"by": "group", "column": "g"}])
@given(st.integers(0, 60), st.integers(0, 60))
@settings(max_examples=40)
def test_a_row_never_changes_sides_when_others_are_added(by: dict[str, str], some: int, more: int) -> None:
    before, later = rows(some), rows(more, start=1000)
    alone = split_rows(policy(**by), before)
    assert split_rows(policy(**by), [*later, *before])[more:] == alone


def test_shares_are_uniform_and_depend_on_the_salt() -> None:
    keys = [row.key for row in rows(3000)]
    shares = [share("reglage", key) for key in keys]
    assert stats.kstest(shares, "uniform").pvalue > 0.001
    other = [share("other", key) for key in keys]
    assert abs(np.corrcoef(shares, other)[0, 1]) < 0.06


def test_no_group_is_on_two_sides() -> None:
    many = rows(700)
    sides: dict[Any, set[Any]] = {}
    for row, split in zip(many, split_rows(policy(by="group", column="g"), many), strict=True):
        sides.setdefault(row.value, set()).add(split)
    assert {len(side) for side in sides.values()} == {1}
    assert {split for side in sides.values() for split in side} == {"train", "validation", "test"}


@given(st.lists(st.integers(0, 4), min_size=1, max_size=200))
@settings(max_examples=60)
def test_stratified_splits_have_every_label_in_proportion(labels: list[int]) -> None:
    many = [row._replace(label=str(label)) for row, label in zip(rows(len(labels)), labels, strict=True)]
    splits = split_rows(policy(by="stratified"), many)
    for label, count in Counter(row.label for row in many).items():
        got = Counter(split for row, split in zip(many, splits, strict=True) if row.label == label)
        assert sum(got.values()) == count
        assert abs(got["test"] - 0.25 * count) <= 1
        assert abs(got["validation"] - 0.15 * count) <= 1
        assert count < 3 or (got["test"] >= 1 and got["validation"] >= 1)


def moments(values: list[Any]) -> list[Keyed]:
    return [row._replace(value=value) for row, value in zip(rows(len(values)), values, strict=True)]


@given(st.lists(st.integers(0, 30), min_size=1, max_size=100))
@settings(max_examples=60)
def test_time_goes_from_train_to_test_and_one_moment_stays_together(values: list[int]) -> None:
    splits = split_rows(policy(by="time", column="t"), moments(values))
    of = {split: [v for v, s in zip(values, splits, strict=True) if s == split] for split in set(splits)}
    order = [of[split] for split in ("train", "validation", "test") if split in of]
    for earlier, later in pairwise(order):
        assert max(earlier) < min(later)
    assert len(of.get("train", [])) <= 0.6 * len(values) + 1e-6


def test_time_reads_numbers_and_dates_in_their_order() -> None:
    ten = policy(by="time", column="t", validation=0.1, test=0.2)
    expected = ["train"] * 7 + ["validation"] + ["test"] * 2
    assert split_rows(ten, moments(list(range(10)))) == expected
    assert split_rows(ten, moments([str(8 + i) for i in range(10)])) == expected  # "10" comes after "9"
    assert split_rows(ten, moments([f"2024-0{i // 3 + 1}-1{i % 3}" for i in range(10)])) == expected
    zones = [f"2024-01-01T0{i}:00:00+0{i}:00" for i in range(10)]  # all the same moment
    assert set(split_rows(ten, moments(zones))) == {"test"}


def test_time_refuses_what_has_no_order() -> None:
    with pytest.raises(DataError, match="column 't' says 'soon'"):
        split_rows(policy(by="time", column="t"), moments([1, "soon"]))
    with pytest.raises(DataError, match="says 'nan'"):
        split_rows(policy(by="time", column="t"), moments([1, "nan"]))


def test_given_splits_are_taken_and_others_refused() -> None:
    given = policy(by="given", column="split")
    assert split_rows(given, moments(["train", "Test ", None, "validation"])) == ["train", "test", None, "validation"]
    with pytest.raises(DataError, match="says 'dev', allowed are train, validation, test"):
        split_rows(given, moments(["train", "dev"]))


@given(st.lists(st.tuples(st.integers(0, 30), st.text(max_size=3)), min_size=1, max_size=60))
@settings(max_examples=60)
def test_a_row_with_a_key_stays_on_its_side_through_every_edit(edits: list[tuple[int, str]]) -> None:
    """Histories of edits: after each one, the rows there are then are split anew."""
    now: dict[int, str] = {}
    sides: dict[int, Any] = {}
    for key, text in edits:
        now[key] = text
        many = [Keyed(f"{k}{t}", t.encode(), "l", None, b"%d" % k) for k, t in now.items()]
        for k, side in zip(now, split_rows(policy(), many), strict=True):
            assert sides.setdefault(k, side) == side
