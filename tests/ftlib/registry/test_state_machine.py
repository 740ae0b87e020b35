"""Any sequence of publishing, promoting, rolling back, collecting and dying, against a dict that does the same."""

import shutil
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import ftlib.registry.registry as registry_module
from ftlib.errors import ConflictError, StorageError
from ftlib.registry import CHAMPION, ModelRegistry
from ftlib.registry.fsck import fsck
from ftlib.registry.garbage_collection import DAY, Collector
from ftlib.storage import LocalStore
from tests.ftlib.registry.kit import fine, staged

MEMORY = Path("/dev/shm")  # thousands of fsyncs
CONTENTS = [{"model": "base", "head": f"{n}"} for n in range(3)] + [{"model": "other"}]
calls = st.one_of(st.none(), st.integers(0, 40))


class Crash(Exception):
    """The process is gone."""


class Mortal:
    """A store whose caller dies before the nth call; nothing is done for the dead, not even tidying up."""

    def __init__(self, store: LocalStore, calls: int | None) -> None:
        self.store, self.left, self.uri, self.lock = store, calls, store.uri, threading.Lock()

    def __getattr__(self, name: str):
        def call(*arguments, **options):
            with self.lock:
                if self.left is not None and self.left <= 0:
                    raise Crash
                self.left = None if self.left is None else self.left - 1
            return getattr(self.store, name)(*arguments, **options)

        return call


class Machine(RuleBasedStateMachine):
    """`versions` and `moves` are what must be there, `stack` what rollbacks left of these moves.

    Whoever died may have done its last step or not.
    """

    @initialize()
    def empty(self) -> None:
        self.place = Path(tempfile.mkdtemp(prefix="registry-", dir=MEMORY if MEMORY.is_dir() else None))
        self.store = LocalStore(self.place / "r")
        self.versions: list[tuple[str, dict[str, str]]] = []
        self.moves: list[int] = []
        self.stack: list[int] = []
        self.held = False
        self.now = 0.0
        self.publish("first", 0, None)

    def teardown(self) -> None:
        shutil.rmtree(self.place, ignore_errors=True)

    def registry(self, calls: int | None = None) -> ModelRegistry:
        return ModelRegistry(Mortal(self.store, calls))

    def attempt(self, act: Callable[[], object], done: Callable[[], bool], record: Callable[[], None]) -> None:
        """Act; if that dies, look whether it was done before."""
        try:
            act()
        except Crash:
            if not done():
                return
        record()

    @rule(key=st.sampled_from(["first", "a", "b", "c"]), content=st.integers(0, 3), calls=calls)
    def publish(self, key: str, content: int, calls: int | None) -> None:
        known = any(key == there for there, _ in self.versions)
        manifest, folder = staged(Path(tempfile.mkdtemp(dir=self.place)), CONTENTS[content])
        (self.place / "scratch").mkdir(exist_ok=True)
        self.attempt(
            lambda: self.registry(calls).publish(manifest, folder, key, fine, self.place / "scratch"),
            lambda: known or self.store.size(f"models/m/versions/{len(self.versions) + 1:08d}.json") is not None,
            lambda: None if known else self.versions.append((key, CONTENTS[content])),
        )

    @rule(data=st.data(), calls=calls)
    def promote(self, data: st.DataObject, calls: int | None) -> None:
        version = data.draw(st.integers(1, len(self.versions)))
        self.move(
            version,
            lambda: self.act(calls).promote("m", CHAMPION, version, len(self.moves) or None, "me", "why"),
            False,
        )

    @precondition(lambda self: len(self.stack) > 1)
    @rule(calls=calls)
    def rollback(self, calls: int | None) -> None:
        version = self.stack[-2]
        self.move(version, lambda: self.act(calls).rollback("m", CHAMPION, len(self.moves), "me", "why"), True)

    def act(self, calls: int | None) -> ModelRegistry:
        return self.registry(calls)

    def move(self, version: int, act: Callable[[], object], back: bool) -> None:
        same = bool(self.moves) and self.moves[-1] == version and not self.held

        def moved() -> None:
            if not same:
                self.moves.append(version)
                self.held = back
                self.stack = self.stack[:-1] if back else [*self.stack, version]
                if self.stack[-2:] == [version, version]:
                    self.stack.pop()

        self.attempt(
            act,
            lambda: same or self.store.size(f"models/m/aliases/champion/{len(self.moves) + 1:08d}.json") is not None,
            moved,
        )

    @precondition(lambda self: self.moves)
    @rule(data=st.data())
    def promote_too_late(self, data: st.DataObject) -> None:
        version = data.draw(st.integers(1, len(self.versions)))
        expected = data.draw(st.integers(0, len(self.moves) + 1).filter(lambda n: n != len(self.moves))) or None
        if version == self.moves[-1] and not self.held:
            assert self.registry().promote("m", CHAMPION, version, expected, "me", "").sequence == len(self.moves)
        else:
            with pytest.raises(ConflictError):
                self.registry().promote("m", CHAMPION, version, expected, "me", "")

    @rule()
    def promote_what_is_not_there(self) -> None:
        with pytest.raises(StorageError):
            self.registry().promote("m", CHAMPION, len(self.versions) + 1, len(self.moves) or None, "me", "")

    @rule(days=st.floats(-5, 30), calls=calls)
    def collect(self, days: float, calls: int | None) -> None:
        self.now += days * DAY
        collector = Collector(self.registry(calls), clock=lambda: self.now)
        self.attempt(lambda: collector.collect(delete=True), lambda: False, lambda: None)

    @invariant()
    def everything_is_there(self) -> None:
        registry = ModelRegistry(self.store)
        if self.store.read("registry.json") is None:
            assert self.versions == []
            return
        found = registry.versions("m")
        assert [version.key for version in found] == [key for key, _ in self.versions]
        assert [entry.version for entry in registry.history("m", CHAMPION)] == self.moves
        if self.moves:
            assert registry.resolve("m@champion").version == self.moves[-1]
        examined = fsck(registry, deep=True)
        assert examined.faults == ()

    @precondition(lambda self: self.versions)
    @rule(data=st.data())
    def pull(self, data: st.DataObject) -> None:
        number = data.draw(st.integers(1, len(self.versions)))
        target = Path(tempfile.mkdtemp(dir=self.place)) / "out"
        registry = self.registry()
        registry.pull(registry.version("m", number), target)
        there = {path.name: path.read_text() for path in target.iterdir() if path.name != "manifest.json"}
        assert there == self.versions[number - 1][1]


def test_any_sequence_of_calls_and_deaths(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(registry_module, "probe", lambda _: None)  # 16 threads a call; it has its own tests
    run_state_machine_as_test(Machine, settings=settings(max_examples=20, stateful_step_count=15))


@pytest.mark.slow
def test_many_sequences_of_calls_and_deaths(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(registry_module, "probe", lambda _: None)
    run_state_machine_as_test(Machine, settings=settings(max_examples=300, stateful_step_count=40))
