"""Garbage collection: mark and sweep in two phases, by a role of its own.

    gc/00000004.json     create-only: what the fourth run saw, and for how long it has been so

A run condemns what no version needs and no live lease holds. A later run that still finds it so, and has watched it for
the grace period, marks once more and deletes. Nobody's clock is trusted alone: ages are added up from run to run,
each step counts for at most half of what is needed, and a step backwards for nothing. So no single wrong clock deletes
anything, and no publisher's or store's clock is ever looked at. Creating the numbered record is also what keeps two
collectors apart.

A publisher that found an object there just before it was deleted finds out after its commit, and uploads it again.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from ftlib.config import Config
from ftlib.errors import BusyError, StorageError
from ftlib.registry.reading import RegistryReader
from ftlib.registry.references import References, collectable
from ftlib.registry.versions import numbers_in
from ftlib.storage.leases import Held, held_leases
from ftlib.storage.sealed_records import read_record, record_bytes

DAY = 86400.0
SECONDS_BETWEEN_MARKS = 10.0


class Watched(Config):
    """A lease, and for how long no beat has come."""

    beat: int
    silent: float


class Run(Config):
    """What one run saw."""

    schema_version: Literal[1] = 1
    run: int = Field(ge=1)
    nonce: str
    at: float
    """The collector's clock, in seconds since 1970."""
    condemned: dict[str, float]
    """Path to the seconds it has been watched as garbage."""
    leases: dict[str, Watched]


class Collected(Config):
    """What a run did, or would do."""

    run: int
    deleted: tuple[str, ...]
    deleted_bytes: int
    condemned: dict[str, float]
    """Garbage that is not deleted yet, and for how many seconds it has been watched."""
    live_leases: tuple[str, ...]
    dead_leases: tuple[str, ...]
    temporary: tuple[str, ...]
    """Files that writers on this machine left half-written when they died."""


class GarbagePolicy(Config):
    """How patient a registry's collector is. Versions are never deleted, whatever it says."""

    grace_days: float = Field(default=7.0, ge=0.0)
    """How long garbage is watched before it is deleted."""
    lease_days: float = Field(default=1.0, ge=0.0)
    """How long a publisher may be silent before it counts as dead."""


def collect_garbage(registry: RegistryReader, policy: GarbagePolicy, *, delete: bool = False) -> Collected:
    """Look through a registry by a policy and, with `delete`, sweep. Raises what `Collector.collect` raises."""
    return Collector(registry, policy.grace_days * DAY, policy.lease_days * DAY).collect(delete=delete)


@dataclass(frozen=True)
class Collector:
    """How long garbage is watched before it goes, and by which clock."""

    registry: RegistryReader
    grace: float = 7 * DAY
    lease: float = DAY
    clock: Callable[[], float] = time.time

    def collect(self, *, delete: bool = False) -> Collected:
        """Look, and with `delete` condemn and sweep; without it nothing is written.

        Raises BusyError if another collector runs, StorageError if a work place lies here, too, IntegrityError
        (deleting nothing) if a version cannot be read: what it needs is not known then.
        """
        self.registry.check_apart()
        store, before = self.registry.store, self._newest()
        objects = list(collectable(store))  # first: what is committed after this is not in it
        leases = held_leases(store)  # before the versions: a publisher has one until its version can be seen
        references = References(self.registry)
        references.refresh()
        run = self._observe(before, objects, leases, references)
        dead = [lease for lease in leases if run.leases[lease.name].silent >= self.lease]
        ripe = [path for path, age in run.condemned.items() if age >= self.grace and path in _condemned(before)]
        temporary = tuple(store.leftovers(remove=False))  # before anything is written, which clears them away as well
        if delete:
            self._record(run)
            store.leftovers(remove=True)
            for lease in dead:
                lease.discard(store)
        sizes = {path: store.size(path) or 0 for path in ripe}
        deleted = self._sweep(ripe, references, {lease.name for lease in dead}) if delete else ripe
        return Collected(
            run=run.run,
            deleted=tuple(deleted),
            deleted_bytes=sum(sizes[path] for path in deleted),
            condemned={path: age for path, age in run.condemned.items() if path not in deleted},
            live_leases=tuple(lease.name for lease in leases if lease not in dead),
            dead_leases=tuple(lease.name for lease in dead),
            temporary=temporary,
        )

    def _newest(self) -> Run | None:
        store = self.registry.store
        runs = numbers_in(store.list("gc"))
        return read_record(store, _run_path(runs[-1]), Run) if runs else None

    def _observe(self, before: Run | None, objects: list[str], leases: list[Held], references: References) -> Run:
        now = self.clock()
        elapsed = now - before.at if before else 0.0
        watched = {lease.name: self._watch(lease, before, elapsed) for lease in leases}
        held = {path for lease in leases if watched[lease.name].silent < self.lease for path in lease.lease.holds}
        garbage = [path for path in objects if path not in held and not references.need(path)]
        condemned = _condemned(before)
        return Run(
            run=before.run + 1 if before else 1,
            nonce=uuid.uuid4().hex,
            at=now,
            condemned={p: _step(condemned[p], elapsed, self.grace) if p in condemned else 0.0 for p in garbage},
            leases=watched,
        )

    def _watch(self, lease: Held, before: Run | None, elapsed: float) -> Watched:
        seen = before.leases.get(lease.name) if before else None
        silent = _step(seen.silent, elapsed, self.lease) if seen and seen.beat == lease.beats[-1] else 0.0
        return Watched(beat=lease.beats[-1], silent=silent)

    def _record(self, run: Run) -> None:
        store, path = self.registry.store, _run_path(run.run)
        if store.create(path, record_bytes(run)):
            return
        recorded = read_record(store, path, Run)
        if recorded is None or recorded.nonce != run.nonce:
            raise BusyError(f"{store.uri}: another collector made run {run.run} meanwhile; nothing was deleted")

    def _sweep(self, ripe: list[str], references: References, dead: set[str]) -> list[str]:
        """Delete, marking again before the first one and every few seconds."""
        store = self.registry.store
        deleted: list[str] = []
        held, marked = set[str](), float("-inf")
        for path in ripe:
            if time.monotonic() - marked > SECONDS_BETWEEN_MARKS:
                marked = time.monotonic()
                live = [lease for lease in held_leases(store) if lease.name not in dead]
                held = {held_path for lease in live for held_path in lease.lease.holds}
                references.refresh()
            if path in held or references.need(path):
                continue
            if not store.discard(path):
                raise StorageError(
                    f"{store.uri}/{path} may not be deleted: the collector's role needs s3:DeleteObject on it"
                )
            deleted.append(path)
        return deleted


def _condemned(run: Run | None) -> dict[str, float]:
    return run.condemned if run else {}


def _step(before: float, elapsed: float, needed: float) -> float:
    """Add the time between two runs: half of what is needed at most, and never less than nothing."""
    return before + min(max(elapsed, 0.0), needed / 2)


def _run_path(number: int) -> str:
    return f"gc/{number:08d}.json"
