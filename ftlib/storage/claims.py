"""Claims: one process says that it is about something, so that others wait and do not do the same at the same time.

    claims/<name>/00000007.json     create-only: the seventh beat; who wrote the newest one holds

A claim keeps work from being done twice; nothing is safe only because of it. No two clocks are compared: who waits
looks for a time of its own whether beats still come, and creates the next one if none did: of several that do so, one
wins. A holder that comes back after its claim was taken finds the next beat to be another's, and has lost.
"""

from __future__ import annotations

import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import Literal

from ftlib.config import Config
from ftlib.errors import BusyError, IntegrityError, Interrupted, ReglageError
from ftlib.progress import note
from ftlib.storage.leases import utc_now
from ftlib.storage.sealed_records import read_record, record_bytes
from ftlib.storage.store import Store

CLAIMS = "claims"
SECONDS_BETWEEN_BEATS = 10.0
PATIENCE = 45.0
"""Seconds without a beat after which a holder counts as dead."""
FIRST_LOOK, SECONDS_BETWEEN_LOOKS = 0.2, 3.0


class Beat(Config):
    """A sign of life of who holds a claim."""

    schema_version: Literal[1] = 1
    holder: str
    """Tells one claim from the next."""
    who: str
    at: str
    """UTC; for people."""
    node: str = ""
    """The node cache whose lock of the same name its holder held."""
    seconds: float = 0.0
    """For how long its holder had held it then, by the holder's own clock."""
    ended: bool = False
    """Given back, by one that may not delete."""


class ClaimLostError(Interrupted):
    """Another machine has taken over what this one was about."""


class Claim:
    """A claim that this process holds, while its beats come: one thread sends them."""

    def __init__(self, store: Store, name: str, holder: str, number: int, node: str = "") -> None:
        self.store, self.name, self.holder, self.node = store, name, holder, node
        self.lost = threading.Event()
        self._began = self._last = time.monotonic()
        self._numbers = [number]
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat_on, name=f"claim {name}", daemon=True)
        self._thread.start()

    def _beat_on(self) -> None:
        while not self._ended.wait(SECONDS_BETWEEN_BEATS) and not self.lost.is_set():
            with suppress(ReglageError):  # a store that cannot be reached now; whoever reaches it may take the claim
                if not self._goes_on():
                    self.lost.set()

    def _goes_on(self) -> bool:
        """Send the next beat and put the oldest away; False where another has taken the claim over.

        What is raised before the beat is sent leaves all as it was, and that beat is sent the next time.
        """
        late = time.monotonic() - self._last > PATIENCE / 2
        # Who took it and ended has left no beat of its own, and none of ours.
        if (late and self.store.size(_path(self.name, self._numbers[-1])) is None) or not self._beat():
            return False
        self._last = time.monotonic()
        self._numbers.append(self._numbers[-1] + 1)
        if self.store.discard(_path(self.name, self._numbers[0])):
            del self._numbers[0]
        return True

    def is_lost(self) -> bool:
        """Say whether another has taken it over, by a look of its own: the next beat may be seconds away."""
        with suppress(ReglageError):  # not reached: the beats hear of it
            beat = newest(self.store, self.name)[1]
            if beat is None or beat.holder not in ("", self.holder):
                self.lost.set()
        return self.lost.is_set()

    def end(self) -> None:
        """Give it back."""
        self._ended.set()
        self._thread.join()
        with suppress(ReglageError):  # what is left behind runs out; the block's own end matters more
            last = self._numbers[-1]
            own = read_record(self.store, _path(self.name, last), Beat)
            if own is None or own.holder != self.holder:  # who took it and ended took our beats away, and began anew
                self.lost.set()
                return
            # Beats beyond our last are of whoever has taken it over since: it holds by them.
            beats = {*self._numbers, *(number for number in numbers(self.store, self.name) if number <= last)}
            gone = [self.store.discard(_path(self.name, number)) for number in sorted(beats)]
            if not all(gone) and not self.lost.is_set():
                self._beat(ended=True)

    def _beat(self, *, ended: bool = False) -> bool:
        held = round(time.monotonic() - self._began, 1)
        number = self._numbers[-1] + 1
        return create_beat(self.store, self.name, number, self.holder, self.node, seconds=held, ended=ended)


@contextmanager
def claimed(
    store: Store,
    name: str,
    *,
    wait: bool = True,
    waiter: str = "",
    done: Callable[[], bool] = lambda: False,
    node: str = "",
) -> Generator[Claim | None]:
    """Hold a claim while the block runs; None as soon as what the holder was about is `done`, while it was waited for.

    Whoever gives a `node` holds that node's lock of the same name: a holder of that node has ended, however it did.
    Raises BusyError, naming the holder, if it is taken and `wait` is false; a holder that gives no sign of life for as
    long as `PATIENCE` is dead, and does not count.
    """
    claim = _take(store, name, wait=wait, waiter=waiter, done=done, node=node)
    try:
        yield claim
    finally:
        if claim is not None:
            claim.end()


def _take(store: Store, name: str, *, wait: bool, waiter: str, done: Callable[[], bool], node: str) -> Claim | None:
    """Wait until the claim is free, given back, or without a beat for too long; then create the next beat."""
    holder, seen, since, told, pause = uuid.uuid4().hex, (0, ""), time.monotonic(), False, FIRST_LOOK
    lives = False
    while True:
        number, beat = newest(store, name)
        if (number, beat.holder if beat else "") != seen:
            lives = seen[0] > 0
            seen, since = (number, beat.holder if beat else ""), time.monotonic()
        silent = time.monotonic() - since > PATIENCE
        if beat is None or beat.ended or silent or (node and beat.node == node):
            if create_beat(store, name, number + 1, holder, node):
                return Claim(store, name, holder, number + 1, node)
            continue
        if lives and not wait:
            raise BusyError(f"{name} is already going on: {beat.who} since {beat.at} (UTC); wait for it or stop it")
        if waiter and not told:
            told = True
            note(waiter, f"{name} is being made by {beat.who} since {beat.at} (UTC): waiting for it")
        time.sleep(pause)
        pause = min(2 * pause, SECONDS_BETWEEN_LOOKS)
        if done():
            return None


def newest(store: Store, name: str) -> tuple[int, Beat | None]:
    """Return the newest beat and its number; 0 and None where nobody holds the claim.

    A listing that is behind costs a create that fails, and nothing else.
    """
    number = max(numbers(store, name), default=0)
    try:
        return number, read_record(store, _path(name, number), Beat) if number else None
    except IntegrityError:  # a damaged beat is one too
        return number, Beat(holder="", who="another process", at="an unknown time")


def numbers(store: Store, name: str) -> list[int]:
    """Return the numbers of a claim's beats that are there."""
    names = (re.fullmatch(r"([0-9]{8})\.json", file) for file in store.list(f"{CLAIMS}/{name}"))
    return [int(match[1]) for match in names if match]


def create_beat(
    store: Store, name: str, number: int, holder: str, node: str = "", *, seconds: float = 0.0, ended: bool = False
) -> bool:
    """Create a beat; True too where it is our own, whose reply was lost."""
    who = f"{socket.gethostname()}:{os.getpid()}"
    beat = Beat(holder=holder, who=who, at=utc_now(), node=node, seconds=seconds, ended=ended)
    if store.create(_path(name, number), record_bytes(beat)):
        return True
    stored = read_record(store, _path(name, number), Beat)
    return stored is not None and stored.holder == holder


def _path(name: str, number: int) -> str:
    return f"{CLAIMS}/{name}/{number:08d}.json"
