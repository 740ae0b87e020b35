"""Do to a work place in a bucket what `ftlib.published.erasure` does to a folder: the same decisions, another listing.

All that can hold rows is copied to this machine's disk for as long as it is searched, under the names that a work
folder would have. What has a trace goes, its record first, then the blobs that no other record names; a kept record
that names a blob with a row in it goes as well.

Whoever works there has a claim that gives signs of life: while one does, nothing is deleted. Who came after the request
was written takes no such row. A blob of no row, which somebody counted on just before it went, is put back.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ftlib.data.forgotten import FOLDER, write_request
from ftlib.errors import StorageError
from ftlib.published.erasure import (
    ROWS_BEFORE_RECORD,
    WHOLE,
    Eraser,
    Erasure,
    Trace,
    certify,
    digests_of,
    request_of,
)
from ftlib.published.trace_search import Search
from ftlib.registry.reading import RegistryReader
from ftlib.storage import claims, safe_relpath
from ftlib.storage.files import local_errors, private_folder
from ftlib.storage.leases import held_leases
from ftlib.storage.trees import TreeFile
from ftlib.work_collection import discard, size_of
from ftlib.work_collection.bucket_contents import ALIVE_SECONDS, READS_AT_ONCE, BucketContents, look
from ftlib.workspace import RECORD, InBucket

_OWN_CLAIM = f"{FOLDER}-forget"
_NO_FILES = ("blobs", "stages", "used", "carried", "shared", "claims", "leases", "gc", "attempts", "exchange")
"""Folders of a place whose objects are not files that were overwritten."""
_LARGEST_TEXT = 64 * 2**20
"""Bytes of a blob that no record names, and that may be a text: a larger one is no page."""
_TABLES = {b"PAR1": ".parquet", b"ARRO": ".arrow"}


@dataclass
class _Copy:
    """What can hold rows, on this machine's disk for a while."""

    work: InBucket
    folder: Path

    @property
    def root(self) -> Path:
        """Return what a work folder would be."""
        return self.folder / "work"

    def show(self, seen: BucketContents) -> None:
        """Fetch what is not here yet. A blob that is gone holds nothing."""
        shutil.rmtree(self.root, ignore_errors=True)
        (self.root / "stages").mkdir(parents=True)
        wanted: list[tuple[Path, TreeFile]] = []
        for key, tree in seen.trees.items():
            (folder := self.root / key).mkdir(parents=True)
            if tree.artifact:
                (folder / RECORD).write_text(json.dumps(tree.artifact, indent=1))
            wanted += [(folder / file.path, file) for file in tree.files]
        wanted += [(self.root / safe_relpath(name), record.file) for name, record in seen.shared.items()]
        wanted = [(path, file) for path, file in wanted if Search.reads(path.name)]
        with ThreadPoolExecutor(READS_AT_ONCE) as pool:
            list(pool.map(self.blob, {file.sha256: file.blob for _, file in wanted}.values()))
            overwritten = [path for path in seen.things if path.split("/")[0] not in _NO_FILES]
            for path, data in zip(overwritten, pool.map(self.work.store.read, overwritten), strict=True):
                if data is not None:
                    private_folder((target := self.root / safe_relpath(path)).parent)
                    target.write_bytes(data)
        for path, file in wanted:
            private_folder(path.parent)
            with suppress(FileNotFoundError):
                os.link(self.folder / file.sha256, path)

    def blob(self, path: str) -> Path:
        """Return a blob's copy; nothing is there if it is gone."""
        local = self.folder / (sha256 := path.rpartition("/")[2])
        if not local.exists() and self.work.store.size(path) is not None:
            self.work.store.get_file(path, local, sha256)
        return local


@dataclass
class _Found:
    """What there is of the rows, and what it was found by."""

    erasure: Erasure
    search: Search
    seen: BucketContents
    holding: set[str]
    """Blobs that have a trace."""


@dataclass(frozen=True)
class BucketEraser:
    """Forgets the rows of some keys in a work place in a bucket, and in this machine's cache of it."""

    work: InBucket
    keys: tuple[str, ...]
    dataset: str | None = None
    by: str = "somebody"
    cache: Path | None = None
    """The user's cache of pulled versions, which may quote rows, too."""
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)

    def erase(
        self, registries: Sequence[RegistryReader] = (), *, delete: bool = False, not_known: Sequence[str] = ()
    ) -> Erasure:
        """Do what `Eraser.erase` does; it raises what that raises, and StorageError if this role may not delete."""
        digests = digests_of(self.keys)
        if not self.work.exists():
            raise StorageError(f"{self.work} is no work place: nothing was ever made there; give the one of the runs")
        with self._copy() as copy:
            if not delete:
                return self._look(digests, copy, registries, not_known).erasure
            with self.work.hold(f"{FOLDER}/forget", wait=False):
                found = self._look(digests, copy, registries, not_known)
                request = request_of(digests, found.search, found.erasure.learnt, self.dataset, self.by, self.clock())
                write_request(self.work, request)
                # Who was there while we looked may have written since; who comes now takes no such row.
                again = self._look(digests, copy, registries, not_known)
                if users := self._users(again.seen):
                    return found.erasure.model_copy(update={"in_use": users})
                self._clear(again, copy)
                done = again.erasure.model_copy(update={"acted": True, "absent": found.erasure.absent})
                return certify(self.work, done, request, self.by, self.clock())

    @contextmanager
    def _copy(self) -> Generator[_Copy]:
        with local_errors(parent := self.work.view.cache), _folder_in(parent) as folder:
            yield _Copy(self.work, folder)

    def _users(self, seen: BucketContents) -> tuple[str, ...]:
        """Return who works there now: whose claims, or leases on what is uploaded, give signs of life."""
        users: list[str] = []
        for name in sorted(seen.alive.keys() - {_OWN_CLAIM}):
            beat = claims.newest(self.work.store, name)[1]
            users.append(f"{name} ({beat.who})" if beat else name)
        ages = {path.removeprefix("leases/"): thing.age for path, thing in seen.below("leases").items()}
        own = f"{socket.gethostname()}:{os.getpid()}"  # a lease of ours that this role may not delete
        for lease in (one for one in held_leases(self.work.store) if one.lease.who != own):
            if min((age for name, age in ages.items() if name.startswith(lease.name)), default=0.0) <= ALIVE_SECONDS:
                users.append(f"an upload ({lease.lease.who})")
        return tuple(users)

    def _look(
        self, digests: dict[str, str], copy: _Copy, registries: Sequence[RegistryReader], not_known: Sequence[str]
    ) -> _Found:
        """Return all that there is of the rows: as a folder has it, and what else a bucket and this node have."""
        seen = look(self.work)
        copy.show(seen)
        as_folder = Eraser(copy.root, self.keys, self.dataset, self.by, self.cache)
        erasure, search = as_folder.look(digests, registries, not_known)
        first = {trace.path: trace for trace in (*self._beside(seen, search, copy), *self._on_this_node(search))}
        traces = {**first, **{trace.path: trace for trace in erasure.traces}}
        holding = _blobs_with(search, traces, seen, copy)
        while others := {trace.path: trace for trace in _naming(holding, seen) if trace.path not in traces}:
            traces = {**others, **traces}  # snapshots, by which the rest is found, stay last
            holding |= _blobs_with(search, others, seen, copy)
        whole = {trace.path: self._sized(trace, seen) for trace in traces.values()}
        told = erasure.model_copy(
            update={
                "folder": str(self.work),
                "traces": tuple(whole.values()),
                "unreached": self._unreached(whole, seen),
            }
        )
        return _Found(told, search, seen, holding)

    def _beside(self, seen: BucketContents, search: Search, copy: _Copy) -> Iterator[Trace]:
        """Yield what a work folder has not: what killed stages left in the bucket, carried folders, blobs of nobody."""
        for path in sorted({"/".join(path.split("/")[:2]) for path in seen.below("exchange")}):
            yield Trace(path=path, kind="half-made", bytes=0)
        for path in seen.below("jobs"):
            if search.holds(copy.root / path):
                yield Trace(path=path, kind="page or log", bytes=0)
        for key, said in seen.attempts.items():
            if search.in_text(said.encode()):
                yield Trace(path=f"attempts/{key}", kind="half-made", bytes=0)
        for key in seen.carried:
            if any(search.holds(path) for path in _files(copy.root / key)):
                yield Trace(path=key, kind="cached version", bytes=0)
        named = seen.needed_blobs(set())
        for path in (path for path in seen.below("blobs") if path not in named):
            if self._orphan_holds(path, seen, search, copy):
                yield Trace(path=path, kind="half-made", bytes=0)

    def _orphan_holds(self, path: str, seen: BucketContents, search: Search, copy: _Copy) -> bool:
        """Say whether a blob that no record names has a trace: of what kind it is, its first bytes say."""
        size = seen.things[path].bytes
        kind = _TABLES.get(self.work.store.read_range(path, 0, 4) if size else b"", "")
        if not size or (not kind and size > _LARGEST_TEXT):
            return False
        with suppress(FileNotFoundError):
            typed = copy.folder / f"orphan{kind or '.txt'}"
            typed.unlink(missing_ok=True)
            os.link(copy.blob(path), typed)
            return search.holds(typed)
        return False

    def _on_this_node(self, search: Search) -> Iterator[Trace]:
        """Yield what this machine's view of the place has, beside copies of trees and of the list."""
        root = self.work.root
        for path in sorted(root.glob("*")):
            if path.name in ("stages", "carried", FOLDER):
                continue
            for member in sorted(path.glob("*")) if path.name in WHOLE else _files(path):
                if any(map(search.holds, _files(member))):
                    yield Trace(path=str(member), kind="cached version", bytes=size_of([member]))
        for stage in ROWS_BEFORE_RECORD:
            for path in sorted((root / "stages" / stage).glob("*.work")):
                yield Trace(path=str(path), kind="half-made", bytes=size_of([path]))

    def _sized(self, trace: Trace, seen: BucketContents) -> Trace:
        if trace.path.startswith("/"):
            return trace
        blobs = [*_blobs_of(trace.path, seen).values(), *(path for path in _objects_of(trace.path, seen))]
        return trace.model_copy(update={"bytes": sum(seen.things[one].bytes for one in blobs if one in seen.things)})

    def _unreached(self, traces: Iterable[str], seen: BucketContents) -> tuple[str, ...]:
        """Say which other machines' caches may have copies, and that a bucket may keep what was deleted."""
        makers = {seen.trees[path].who.rpartition(":")[0] for path in traces if path in seen.trees}
        others = ", ".join(sorted(makers - {socket.gethostname()}))
        made = f"{others}, which made outputs that go, and any that read them" if others else "any that read here"
        return (
            f"caches of other nodes ({made}): what they have goes when their quota, REGLAGE_CACHE_GB, is reached; or "
            "delete blobs/ and work/ of REGLAGE_CACHE there, while nothing runs",
            "earlier versions of deleted objects, where the bucket keeps them: a lifecycle rule ends them",
        )

    def _clear(self, found: _Found, copy: _Copy) -> None:
        """Delete, trace by trace: its objects, the record first, then its blobs, then this machine's copies."""
        seen, store = found.seen, self.work.store
        paths = [trace.path for trace in found.erasure.traces]
        gone = {path.rpartition("/")[2] if path.startswith("stages/") else path for path in paths}
        needed = seen.needed_blobs(gone)
        deleted: set[str] = set()
        for path in paths:
            if path.startswith("/"):
                if Path(path).exists():
                    discard(Path(path))
                continue
            self._discard(_objects_of(path, seen))
            held = {one for lease in held_leases(store) for one in lease.lease.holds} - found.holding
            blobs = {blob for name, blob in _blobs_of(path, seen).items() if Search.reads(name)}
            self._discard(blobs := sorted(blobs - needed - held - deleted))
            deleted |= {*blobs}
            self._forget_here(path, blobs)
        self._put_back(deleted - found.holding, copy)

    def _discard(self, paths: Iterable[str]) -> None:
        for path in paths:
            if not self.work.store.discard(path):
                raise StorageError(
                    f"{self.work}/{path} may not be deleted: it needs s3:DeleteObject; run it again as the collector's "
                    "role, or as another that may"
                )

    def _forget_here(self, path: str, blobs: Iterable[str]) -> None:
        """Take away what this machine's cache has of a trace."""
        view = self.work.view
        here = view.root / path
        if path.startswith(("stages/", "carried/")):
            view.release(path)
            view.room.put_away(here)
            for suffix in (".tree", ".held"):
                here.with_name(f"{here.name}{suffix}").unlink(missing_ok=True)
        elif here.exists():
            discard(here)
        for sha256 in (blob.rpartition("/")[2] for blob in blobs):
            (view.cache / "blobs" / sha256[:2] / sha256).unlink(missing_ok=True)

    def _put_back(self, deleted: set[str], copy: _Copy) -> None:
        """Upload blobs of no row again that somebody found there just before they went."""
        if not deleted:
            return
        held = {path for lease in held_leases(self.work.store) for path in lease.lease.holds}
        for path in sorted(deleted & (look(self.work).needed_blobs(set()) | held)):
            if (local := copy.folder / path.rpartition("/")[2]).exists():
                self.work.store.put_file(local, path, local.name)


@contextmanager
def _folder_in(parent: Path) -> Generator[Path]:
    private_folder(parent)
    with tempfile.TemporaryDirectory(prefix="forget-", dir=parent) as folder:
        yield Path(folder)


def _blobs_of(path: str, seen: BucketContents) -> dict[str, str]:
    """Return the blobs of a trace by the names of the files."""
    if path in seen.trees:
        return {file.path: file.blob for file in seen.trees[path].files}
    if path.startswith("blobs/"):
        return {path: path}
    return {
        name: record.file.blob for name, record in seen.shared.items() if name == path or name.startswith(f"{path}/")
    }


def _objects_of(path: str, seen: BucketContents) -> list[str]:
    """Return the objects of a trace, its record first, without its blobs."""
    if path.startswith("blobs/"):
        return []
    record = f"{path}/record.json"
    objects = [record, path, f"shared/{path}.json", *seen.below(f"shared/{path}"), *seen.below(path)]
    if path.startswith("stages/"):
        objects += [*seen.below(f"used/{path.removeprefix('stages/')}"), *seen.below(f"attempts/{path.split('/')[2]}")]
    return [one for one in dict.fromkeys(objects) if one in seen.things]


def _blobs_with(search: Search, traces: Iterable[str], seen: BucketContents, copy: _Copy) -> set[str]:
    """Return the blobs of traces in which a row is."""
    holding: set[str] = set()
    for path in traces:
        for name, blob in _blobs_of(path, seen).items():
            local = copy.root / path / name if path in seen.trees else copy.root / name
            if path.startswith("blobs/") or search.holds(local):
                holding.add(blob)
    return holding


def _naming(holding: set[str], seen: BucketContents) -> Iterator[Trace]:
    """Yield every record that names one of the blobs."""
    for path, tree in seen.trees.items():
        if any(file.blob in holding for file in tree.files):
            yield Trace(path=path, kind="snapshot" if path.startswith("stages/ingest/") else "rows", bytes=0)
    for name, record in seen.shared.items():
        if record.file.blob in holding:
            yield Trace(path=name, kind="table", bytes=0)
    for key, said in seen.attempts.items():
        if any(blob.rpartition("/")[2] in said for blob in holding):
            yield Trace(path=f"attempts/{key}", kind="half-made", bytes=0)


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
    yield from (one for one in sorted(path.rglob("*")) if one.is_file())
