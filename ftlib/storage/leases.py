"""Leases: a publisher says which objects it needs before a version refers to them.

    leases/<id>-00000003.json     create-only: the third beat; only the newest counts

The collector never compares a publisher's clock with its own: it looks whether beats still come between its own runs.
A publisher that was killed leaves its lease behind, and one that may not delete always does: both run out.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import time
import uuid
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Literal

from ftlib.config import Config
from ftlib.errors import TransientError
from ftlib.storage.sealed_records import read_record, record_bytes
from ftlib.storage.store import Store

LEASES = "leases"
SECONDS_BETWEEN_BEATS = 60.0


class Lease(Config):
    """What a publisher is about to need."""

    schema_version: Literal[1] = 1
    holds: tuple[str, ...]
    """Paths in the registry."""
    who: str
    at: str
    """UTC; for people."""


@contextmanager
def lease(
    store: Store, holds: tuple[str, ...], clock: Callable[[], float] = time.monotonic
) -> Generator[Callable[[], None]]:
    """Hold objects while the block runs. Gives a call that renews the lease, at most once a minute."""
    name = uuid.uuid4().hex
    beats, last = 0, clock()

    def beat() -> None:
        nonlocal beats, last
        beats, last = beats + 1, clock()
        record = Lease(holds=holds, who=f"{socket.gethostname()}:{os.getpid()}", at=utc_now())
        store.create(_beat_path(name, beats), record_bytes(record))

    def renew() -> None:
        if clock() - last >= SECONDS_BETWEEN_BEATS:
            beat()

    beat()
    try:
        yield renew
    finally:
        with contextlib.suppress(TransientError):  # what is left behind runs out; the block's own end matters more
            for number in range(1, beats + 1):
                store.discard(_beat_path(name, number))


class Held(Config):
    """A lease as the collector sees it."""

    name: str
    beats: tuple[int, ...]
    lease: Lease

    def discard(self, store: Store) -> None:
        """Remove it."""
        for number in self.beats:
            store.discard(_beat_path(self.name, number))


def held_leases(store: Store) -> list[Held]:
    """Return the leases there are, dead ones among them. Raises IntegrityError for one that cannot be read."""
    beats: dict[str, list[int]] = {}
    for file in store.list(LEASES):
        if match := re.fullmatch(r"(.+)-([0-9]{8})\.json", file):
            beats.setdefault(match[1], []).append(int(match[2]))
    leases: list[Held] = []
    for name, numbers in sorted(beats.items()):
        path = _beat_path(name, max(numbers))
        if lease := read_record(store, path, Lease):  # else its publisher has just ended
            leases.append(Held(name=name, beats=tuple(sorted(numbers)), lease=lease))
    return leases


def utc_now() -> str:
    """Return the time as people write it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _beat_path(name: str, number: int) -> str:
    return f"{LEASES}/{name}-{number:08d}.json"
