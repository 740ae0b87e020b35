"""Which files the retraining of a model has already considered, and what was decided about them.

<root>/ledgers/<model>/<dataset>/00000042.json              one decision: files added and removed since entry 41
<root>/ledgers/<model>/<dataset>/snapshots/00000032.json    the sum of entries 1 to 32, so that reading stays short

Entries are create-only and numbered without gaps: of two retrainings that decide at once one wins, and the other is
told. What is new is a difference of sets of (uri, version, bytes): no clock is compared, so a late copy, a clock set
back and two files of one second lose nothing. A run that is killed appends nothing, and its files are new again.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, TypeVar

from pydantic import Field

from ftlib.config import Config, Name
from ftlib.data.datasets import RawDataset
from ftlib.data.listed import ListedFile
from ftlib.errors import DataError, IntegrityError, StorageError, TransientError
from ftlib.registry.versions import model_name, numbers_in
from ftlib.storage.sealed_records import read_record, record_bytes
from ftlib.storage.store import Store

ENTRIES_PER_SNAPSHOT = 32
READS_AT_ONCE = 8

R = TypeVar("R", "Entry", "LedgerSnapshot")
Known = dict[str, tuple[str, int]]
"""uri: (version, bytes)."""


class Decision(Config):
    """What a retraining came to."""

    what: Literal["promoted", "not_promoted", "skipped"]
    reasons: tuple[str, ...] = ()
    version: int | None = None
    """The version it published, if any."""


class LedgerState(Config):
    """All entries added up."""

    sequence: int = 0
    """The number of the last entry; 0 where there is none."""
    decision: Decision | None = None
    """The last one."""
    files: tuple[ListedFile, ...] = ()
    """The files considered so far, in order of their uri."""


class Changes(Config):
    """What a listing shows against what was known; no file is in two of these."""

    added: tuple[ListedFile, ...] = ()
    edited: tuple[ListedFile, ...] = ()
    """As they are now; their earlier rows are gone with their earlier bytes."""
    vanished: tuple[ListedFile, ...] = ()
    """As they were known."""
    unchanged: tuple[ListedFile, ...] = ()
    waiting: tuple[ListedFile, ...] = ()
    """Added or edited, and perhaps still being written: left for a later run, whatever is decided now."""
    known: int = 0
    """How many files were known before."""

    @property
    def fresh(self) -> tuple[ListedFile, ...]:
        """Return the files whose rows were not there before."""
        return (*self.added, *self.edited)

    @property
    def nothing(self) -> bool:
        """Say whether the rows are the same as before."""
        return not (self.added or self.edited or self.vanished)

    def __str__(self) -> str:
        counts = {name: len(getattr(self, name)) for name in ("added", "edited", "vanished", "waiting")}
        return ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "nothing new"


def compare(before: LedgerState, now: Iterable[ListedFile]) -> Changes:
    """Return what a listing shows against the files considered so far. Order and clocks do not matter."""
    considered, listed = {file.uri: file for file in before.files}, {file.uri: file for file in now}
    sorted_out: dict[str, list[ListedFile]] = {name: [] for name in ("added", "edited", "unchanged", "waiting")}
    for uri in sorted(listed):
        file, old = listed[uri], considered.get(uri)
        if old is not None and old.identity == file.identity:
            sorted_out["unchanged"].append(file)
        elif not file.settled:
            sorted_out["waiting"].append(file)
        else:
            sorted_out["added" if old is None else "edited"].append(file)
    return Changes(
        vanished=tuple(considered[uri] for uri in sorted(considered.keys() - listed.keys())),
        known=len(considered),
        **{name: tuple(files) for name, files in sorted_out.items()},
    )


def check_vanished(changes: Changes, allowed: float, where: str) -> None:
    """Raise DataError if more of the known files are gone than `allowed`: a wrong prefix or role looks like that."""
    gone = len(changes.vanished)
    if gone > allowed * changes.known:
        raise DataError(
            f"{where}: {gone} of {changes.known} files known from earlier runs are gone, allowed {allowed:.0%}, "
            f"first {changes.vanished[0].uri}: check the source's path and credentials; if it is meant, raise "
            "limits.vanished"
        )


def fresh_places(raw: RawDataset, changes: Changes) -> frozenset[int]:
    """Return the places in `raw.files` (the column `_file` of its rows) of files that were not known before."""
    fresh = {file.uri for file in changes.fresh}
    return frozenset(number for number, file in enumerate(raw.files) if file.uri in fresh)


class Entry(Config):
    """One decision."""

    schema_version: Literal[1] = 1
    sequence: int = Field(ge=1)
    added: tuple[tuple[str, str, int], ...]
    """uri, version, bytes; an edited file's new ones replace the old."""
    removed: tuple[str, ...]
    decision: Decision
    nonce: str
    """Tells the writer's own entry from another's when the reply to the write was lost."""
    at: str
    """UTC; for people. Nothing is ordered by it."""


class LedgerSnapshot(Config):
    """The sum of the entries so far."""

    schema_version: Literal[1] = 1
    sequence: int = Field(ge=1)
    files: tuple[tuple[str, str, int], ...]
    decision: Decision


class FileLedger:
    """The ledger of one dataset of one model, in the registry's store. Reading needs no write permission."""

    def __init__(self, store: Store, model: Name, dataset: Name) -> None:
        self.store = store
        self.folder = f"ledgers/{model_name(model)}/{model_name(dataset)}"

    def state(self) -> LedgerState:
        """Add up the entries. Raises IntegrityError if one is damaged or missing."""
        files: Known = {}
        sequence, decision = 0, None
        if snapshots := self._numbers("snapshots"):
            snapshot = self._read(f"snapshots/{snapshots[-1]:08d}.json", LedgerSnapshot)
            sequence, decision = snapshot.sequence, snapshot.decision
            files = {uri: (version, size) for uri, version, size in snapshot.files}
        for entry in self._entries(after=sequence):
            for uri in entry.removed:
                files.pop(uri, None)
            files.update({uri: (version, size) for uri, version, size in entry.added})
            sequence, decision = entry.sequence, entry.decision
        listed = tuple(ListedFile(uri=uri, version=files[uri][0], bytes=files[uri][1]) for uri in sorted(files))
        return LedgerState(sequence=sequence, decision=decision, files=listed)

    def append(self, changes: Changes, decision: Decision, after: int, nonce: str = "") -> bool:
        """Record that these changes were considered; False if another run has recorded something since `after`.

        `after` is the sequence of the state that `changes` was compared with. The entry is the last thing written: a
        run that is killed before is one that never was. A decision that leaves the files for later (too few, say)
        is recorded with `Changes()`. A caller that may repeat the call after a TransientError
        passes a `nonce` of its own, and is told the truth about its first attempt.
        """
        if after and self.store.read(self._path(after)) is None:
            raise StorageError(
                f"{self.store.uri}/{self._path(after)} is missing: compare with the ledger's state again"
            )
        self._compact(after)
        entry = Entry(
            sequence=after + 1,
            added=tuple(file.identity for file in changes.fresh),
            removed=tuple(file.uri for file in changes.vanished),
            decision=decision,
            nonce=nonce or uuid.uuid4().hex,
            at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        )
        if self.store.create(self._path(entry.sequence), record_bytes(entry, indent=None)):
            return True
        path = self._path(entry.sequence)
        if self.store.read(path) is None:
            raise TransientError(f"{self.store.uri} refused {path} but does not show it; run again")
        return self._read(f"{entry.sequence:08d}.json", Entry).nonce == entry.nonce

    def _compact(self, last: int) -> None:
        """Write a snapshot if there are many entries since the newest one. Whoever writes it writes the same."""
        if last - max(self._numbers("snapshots"), default=0) < ENTRIES_PER_SNAPSHOT:
            return
        state = self.state()
        if state.decision is not None:
            files = tuple(file.identity for file in state.files)
            snapshot = LedgerSnapshot(sequence=state.sequence, files=files, decision=state.decision)
            self.store.create(f"{self.folder}/snapshots/{state.sequence:08d}.json", record_bytes(snapshot, indent=None))

    def _entries(self, after: int) -> Iterator[Entry]:
        """Read the entries behind `after`, in order."""
        behind = [number for number in self._numbers() if number > after]
        if gaps := sorted({*range(after + 1, max(behind, default=0))} - {*behind}):
            raise IntegrityError(f"{self.store.uri}/{self._path(gaps[0])} is missing; restore it from a copy")
        with ThreadPoolExecutor(READS_AT_ONCE) as pool:
            yield from pool.map(lambda number: self._read(f"{number:08d}.json", Entry), behind)

    def _numbers(self, folder: str = "") -> list[int]:
        return numbers_in(self.store.list(f"{self.folder}/{folder}".rstrip("/")))

    def _path(self, number: int) -> str:
        return f"{self.folder}/{number:08d}.json"

    def _read(self, name: str, kind: type[R]) -> R:
        path = f"{self.folder}/{name}"
        record = read_record(self.store, path, kind)
        if record is None:
            raise IntegrityError(f"{self.store.uri}/{path} is missing; restore it from a copy")
        if name.rpartition("/")[2] != f"{record.sequence:08d}.json":
            raise IntegrityError(
                f"{self.store.uri}/{path} says it is entry {record.sequence}: it was copied there; restore "
                "the one that belongs there"
            )
        return record
