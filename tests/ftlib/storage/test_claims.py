"""Claims: who comes back after its claim was taken leaves the beats of who holds it now alone."""

from __future__ import annotations

from pathlib import Path

from ftlib.storage import LocalStore
from ftlib.storage.claims import Beat, claimed, create_beat, newest, numbers


def _holder(beat: Beat | None) -> str | None:
    return None if beat is None else beat.holder


def test_who_ends_behind_another_leaves_the_claim_with_it(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    with claimed(store, "train-x"):
        assert create_beat(store, "train-x", 2, "B")  # as one does that saw no sign of life for long enough
    number, beat = newest(store, "train-x")
    assert (number, _holder(beat)) == (2, "B")


def test_who_ends_behind_two_others_leaves_the_claim_with_the_second(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    with claimed(store, "train-x") as mine:
        assert mine is not None
        store.discard("claims/train-x/00000001.json")  # the first took it, gave it back with all beats that were there
        assert create_beat(store, "train-x", 1, "C")
    number, beat = newest(store, "train-x")
    assert (number, _holder(beat)) == (1, "C")
    assert mine.lost.is_set()


def test_who_ends_alone_leaves_nothing(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    assert create_beat(store, "train-x", 1, "dead", node="here")
    with claimed(store, "train-x", node="here"):
        assert numbers(store, "train-x") == [1, 2]
    assert numbers(store, "train-x") == []
