"""The ledger against plain sets, under races, kills, lost replies and damage; on a folder and on an S3 server."""

from __future__ import annotations

import itertools
import shutil
import signal
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import ftlib.retraining.file_ledger as file_ledger
from ftlib.data.datasets import Ledger, RawDataset
from ftlib.data.listed import FileVersion, ListedFile
from ftlib.errors import DataError, IntegrityError, RecipeError, StorageError
from ftlib.retraining.file_ledger import (
    Changes,
    Decision,
    FileLedger,
    LedgerState,
    check_vanished,
    compare,
    fresh_places,
)
from ftlib.storage import LocalStore, Store
from tests.ftlib.registry.kit import Dying, child, damage, exit_code, stored

SEEN = Decision(what="not_promoted", reasons=("no better",))


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return LocalStore(tmp_path / "store") if request.param == "local" else request.getfixturevalue("s3_store")


def listed(**versions: str) -> list[ListedFile]:
    return [ListedFile(uri=uri, version=version, bytes=len(version)) for uri, version in versions.items()]


def names(files: tuple[ListedFile, ...]) -> str:
    return "".join(file.uri for file in files)


def consider(ledger: FileLedger, now: list[ListedFile], decision: Decision = SEEN) -> Changes:
    state = ledger.state()
    changes = compare(state, now)
    assert ledger.append(changes, decision, after=state.sequence)
    return changes


token = st.sampled_from(["x", "y", "yy"])
listing = st.dictionaries(st.sampled_from("abcdef"), token)


@given(listing, listing, st.sets(st.sampled_from("abcdef")))
@settings(max_examples=150)
def test_what_changed_is_a_difference_of_sets(before: Any, now: Any, unsettled: set[str]) -> None:
    old = {(uri, version, len(version)) for uri, version in before.items()}
    new = {(uri, version, len(version)) for uri, version in now.items()}
    files = [file.model_copy(update={"settled": file.uri not in unsettled}) for file in listed(**now)]
    changes = compare(LedgerState(files=tuple(listed(**before))), reversed(files))
    settled = {entry for entry in new if entry[0] not in unsettled}
    assert {file.identity for file in changes.unchanged} == old & new
    assert {file.identity for file in changes.added} == {e for e in settled - old if e[0] not in before}
    assert {file.identity for file in changes.edited} == {e for e in settled - old if e[0] in before}
    assert {file.identity for file in changes.waiting} == new - old - settled
    assert {file.identity for file in changes.vanished} == {e for e in old if e[0] not in now}
    assert changes.nothing == (not changes.fresh and not changes.vanished)


def test_a_file_that_waits_is_new_once_it_has_settled(store: Store) -> None:
    ledger = FileLedger(store, "m", "d")
    (young,) = listed(a="x")
    changes = consider(ledger, [young.model_copy(update={"settled": False})])
    assert (names(changes.waiting), changes.nothing, str(changes)) == ("a", True, "1 waiting")
    assert names(consider(ledger, [young]).added) == "a"
    rewritten = listed(a="y")[0].model_copy(update={"settled": False})
    assert names(consider(ledger, [rewritten]).waiting) == "a"  # neither gone nor yet edited
    assert names(consider(ledger, listed(a="y")).edited) == "a"


def test_state_says_what_was_decided_last(store: Store) -> None:
    ledger = FileLedger(store, "m", "d")
    assert ledger.state() == LedgerState()
    consider(ledger, listed(b="x", a="x"))
    state = ledger.state()
    assert (state.sequence, names(state.files), state.decision) == (1, "ab", SEEN)
    assert FileLedger(store, "m", "other").state() == LedgerState()


def test_a_decision_to_wait_leaves_the_files_new(store: Store) -> None:
    ledger = FileLedger(store, "m", "d")
    skipped = Decision(what="skipped", reasons=("1 new row, wanted 100",))
    assert ledger.append(Changes(), skipped, after=0)
    assert ledger.state().decision == skipped
    assert names(compare(ledger.state(), listed(a="x")).added) == "a"


def test_of_those_who_decide_at_once_one_wins_and_the_others_are_told(store: Store) -> None:
    ledger = FileLedger(store, "m", "d")
    for turn in range(3):
        changes = compare(ledger.state(), listed(a=f"{turn}"))
        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(lambda _, c=changes, t=turn: ledger.append(c, SEEN, after=t), range(8)))
        assert won.count(True) == 1
        assert ledger.state().sequence == turn + 1


def test_a_lost_reply_is_our_own_entry(store: Store) -> None:
    class LostReply:
        def __getattr__(self, name: str) -> Any:
            return getattr(store, name)

        def create(self, path: str, data: bytes) -> bool:
            return store.create(path, data) and store.create(path, data)

    assert FileLedger(LostReply(), "m", "d").append(Changes(), SEEN, after=0)
    assert not FileLedger(LostReply(), "m", "d").append(Changes(), SEEN, after=0)


def test_an_append_that_is_repeated_with_its_nonce_is_one_entry(store: Store) -> None:
    ledger = FileLedger(store, "m", "d")
    assert [ledger.append(Changes(), SEEN, after=0, nonce="run-1") for _ in range(3)] == [True] * 3
    assert not ledger.append(Changes(), SEEN, after=0, nonce="run-2")
    assert ledger.state().sequence == 1


def test_no_entry_without_the_one_before(store: Store) -> None:
    with pytest.raises(StorageError, match=r"00000003\.json is missing"):
        FileLedger(store, "m", "d").append(Changes(), SEEN, after=3)
    assert FileLedger(store, "m", "d").state() == LedgerState()


def test_a_snapshot_keeps_reading_short_however_many_entries_there_are(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_ledger, "ENTRIES_PER_SNAPSHOT", 4)
    for turn in range(11):
        consider(FileLedger(store, "m", "d"), listed(a=f"{turn}", **{f"b{turn}": "x"}))
    read: list[str] = []

    class Counting:
        def __getattr__(self, name: str) -> Any:
            return getattr(store, name)

        def read(self, path: str) -> bytes | None:
            read.append(path.rpartition("d/")[2])
            return store.read(path)

    state = FileLedger(Counting(), "m", "d").state()
    assert sorted(read) == ["00000009.json", "00000010.json", "00000011.json", "snapshots/00000008.json"]
    assert state.sequence == 11
    assert {file.identity for file in state.files} == {("a", "10", 2), ("b10", "x", 1)}


def test_damage_and_gaps_are_told_by_name(store: Store) -> None:
    ledger = FileLedger(store, "m", "d")
    for turn in range(3):
        consider(ledger, listed(a=f"{turn}"))
    store.discard("ledgers/m/d/00000002.json")
    with pytest.raises(IntegrityError, match=r"ledgers/m/d/00000002\.json is missing"):
        ledger.state()
    store.create("ledgers/m/d/00000002.json", store.read("ledgers/m/d/00000001.json") or b"")
    with pytest.raises(IntegrityError, match=r"00000002\.json says it is entry 1"):
        ledger.state()
    consider(FileLedger(store, "m", "e"), [])
    damage(store, "ledgers/m/e/00000001.json")
    with pytest.raises(IntegrityError, match=r"00000001\.json has other bytes than were written"):
        FileLedger(store, "m", "e").state()


def test_names_that_are_no_names() -> None:
    with pytest.raises(RecipeError, match="model name"):
        FileLedger(LocalStore(Path("nowhere")), "../m", "d")


def test_files_that_vanish_in_number_fail_and_a_few_do_not() -> None:
    before = LedgerState(files=tuple(listed(**dict.fromkeys("abcdefghij", "x"))))
    few, many = (compare(before, before.files[n:]) for n in (2, 3))
    check_vanished(few, 0.2, "datasets.d")
    check_vanished(many, 1.0, "datasets.d")
    check_vanished(compare(LedgerState(), []), 0.0, "datasets.d")
    with pytest.raises(DataError, match=r"datasets\.d: 3 of 10 files .* gone, allowed 20%, first a: check"):
        check_vanished(many, 0.2, "datasets.d")
    with pytest.raises(DataError, match="2 of 10 files"):
        check_vanished(few, 0.0, "datasets.d")


def test_fresh_rows_are_told_by_the_place_of_their_file() -> None:
    files = tuple(FileVersion(uri=uri, bytes=1, sha256=sha) for uri, sha in (("b", "1"), ("a", "2"), ("c", "3")))
    raw = RawDataset(content="c", columns=(), files=files, ledger=Ledger(rows_in=0, kept=0))
    changes = compare(LedgerState(files=tuple(listed(a="x", b="x"))), listed(a="y", b="x", c="x"))
    assert fresh_places(raw, changes) == {1, 2}


def test_kill_9_at_every_call_then_consider_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before or after each call to the store: afterwards the entry is there once, and nothing is lost."""
    monkeypatch.setattr(file_ledger, "ENTRIES_PER_SNAPSHOT", 2)
    for point in itertools.count():
        store = LocalStore(tmp_path / f"r{point}")
        for turn in range(4):
            consider(FileLedger(store, "m", "d"), listed(a=f"{turn}"))
        now = listed(a="new", b="new")
        code = exit_code(child(lambda: consider(FileLedger(Dying(store, point), "m", "d"), now) and None))  # noqa: B023
        again = compare(FileLedger(store, "m", "d").state(), now)
        if again.nothing:  # the entry was written, and what was killed was only the word of it
            assert FileLedger(store, "m", "d").state().sequence == 5
        else:
            assert (names(again.added), names(again.edited)) == ("b", "a")
            consider(FileLedger(store, "m", "d"), now)
        state = FileLedger(store, "m", "d").state()
        assert (state.sequence, [file.identity for file in state.files]) == (5, [file.identity for file in now])
        assert len([path for path in stored(store, "ledgers/m/d") if "snapshots" not in path]) == 5
        if code == 0:
            break
        assert code == -signal.SIGKILL
    assert point >= 20


class LedgerMachine(RuleBasedStateMachine):
    """Random histories of files that come, change and go, of decisions, refusals and twins, against a dictionary."""

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(file_ledger, "ENTRIES_PER_SNAPSHOT", 2)
        self.ledger = FileLedger(LocalStore(self.folder), "m", "d")
        self.now: dict[str, str] = {}
        self.considered: dict[str, str] = {}
        self.entries = 0

    def teardown(self) -> None:
        shutil.rmtree(self.folder)
        self.patch.undo()

    @rule(uri=st.sampled_from("abcd"), version=token)
    def write(self, uri: str, version: str) -> None:
        self.now[uri] = version

    @rule(uri=st.sampled_from("abcd"))
    def remove(self, uri: str) -> None:
        self.now.pop(uri, None)

    @rule(twin=st.booleans())
    def retrain(self, twin: bool) -> None:
        state = self.ledger.state()
        changes = compare(state, listed(**self.now))
        assert {file.uri for file in changes.fresh} == {u for u, v in self.now.items() if self.considered.get(u) != v}
        assert {file.uri for file in changes.vanished} == self.considered.keys() - self.now.keys()
        assert self.ledger.append(changes, SEEN, after=state.sequence)
        if twin:  # it read the same state, and comes too late
            assert not self.ledger.append(changes, SEEN, after=state.sequence)
        self.considered, self.entries = dict(self.now), self.entries + 1

    @rule()
    def is_killed(self) -> None:
        compare(self.ledger.state(), listed(**self.now))

    @invariant()
    def is_the_dictionary(self) -> None:
        if hasattr(self, "ledger"):
            state = self.ledger.state()
            assert {file.uri: file.version for file in state.files} == self.considered
            assert state.sequence == self.entries


TestLedgerMachine = LedgerMachine.TestCase
TestLedgerMachine.settings = settings(max_examples=40, stateful_step_count=20)
