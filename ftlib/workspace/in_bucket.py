"""A work place in a bucket: a stage is made on this node's disk, its files go up as blobs, one record says it is done.

    place.json                                       create-only: the store was proved once to keep such writes
    blobs/sha256/ab/<64 hex>                         files by digest, as a registry has them
    stages/<stage>/<fingerprint>/record.json         create-only, written last: artifact, files, nonce
    used/<stage>/<fingerprint>/<year-month-day>      create-only: somebody asked for it on that day
    carried/<32 hex>/record.json                     create-only: a folder that every node shall see
    shared/<relative>.json                           create-only: what a file whose name says its content holds
    claims/<name>/<8 digits>.json                    create-only: who is making what (`ftlib.storage.claims`)
    <relative>                                       what is overwritten: pages, run.json

Done or not is decided by reading the record's key, never by a listing, never by a clock. Whoever loses the race for a
record takes the one that is there. Whoever loses its claim ends its work, by whatever error, then waits for the other's
record and goes on with that. `ftlib.storage.node_cache` is where files are on this node.
"""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Literal, TypeVar, cast

from pydantic import BaseModel, Field, ValidationError
from typing_extensions import override

from ftlib.artifacts import Artifact
from ftlib.config import Config
from ftlib.errors import Interrupted, ReglageError, StorageError
from ftlib.fingerprint import Job, digest, file_digest
from ftlib.progress import Progress, listen
from ftlib.storage import Place, Store
from ftlib.storage.claims import Claim, ClaimLostError, claimed
from ftlib.storage.files import local_errors, private_folder
from ftlib.storage.leases import lease, utc_now
from ftlib.storage.locks import exclusive
from ftlib.storage.node_cache import ELSEWHERE, NodeView, node_id, node_view
from ftlib.storage.place import is_remote
from ftlib.storage.race import probe
from ftlib.storage.sealed_records import read_record, record_bytes
from ftlib.storage.trees import Tree, TreeFile, create_tree, record_path, tree_of, upload_blobs
from ftlib.workspace.building import built
from ftlib.workspace.carried import with_uris
from ftlib.workspace.records import RECORD
from ftlib.workspace.workspace import Workspace

A = TypeVar("A", bound=Artifact)
M = TypeVar("M", bound=BaseModel)

PLACE = "place.json"


class Settled(Config):
    """Says that a bucket was proved to keep create-only writes, and is a work place."""

    schema_version: Literal[1] = 1
    kind: Literal["work"] = "work"
    nonce: str
    at: str
    """UTC; for people."""


class SharedFile(Config):
    """What a shared file holds."""

    schema_version: Literal[1] = 1
    file: TreeFile
    nonce: Annotated[str, Field(min_length=1)]


class InBucket(Workspace):
    """What `Workspace` promises, in a bucket; `root` is this node's view of it."""

    def __init__(self, root: str | Path, kms_key: str | None = None) -> None:
        self.place = Place.parse(str(root).rstrip("/"), kms_key=kms_key)
        self._settled = False
        self._folders: dict[tuple[str, int], str] = {}

    @property
    def view(self) -> NodeView:
        """Return this node's view: the process's, which a fork has made its own."""
        return node_view(self.place)

    @property
    @override
    def store(self) -> Store:
        return self.view.writing(self.place.kms_key)

    @property
    @override
    def root(self) -> Path:
        return self.view.root

    @override
    def exists(self) -> bool:
        return self.store.size(PLACE) is not None

    @override
    def folder(self, job: Job) -> Path:
        return self.root / _key(job)

    @override
    def uri(self, job: Job) -> str:
        return f"{self.store.uri}/{_key(job)}"

    @override
    def find(self, job: Job, kind: type[A]) -> A | None:
        tree = self.view.tree(_key(job))
        return None if tree is None else self._artifact(job, kind, tree)

    @override
    def has(self, job: Job) -> bool:
        return self.store.size(record_path(_key(job))) is not None

    @override
    def making(self, job: Job) -> str | None:
        tree = self.view.tree(_key(job))
        return None if tree is None else tree.nonce

    @override
    def forget(self, job: Job) -> None:
        path = record_path(_key(job))
        if not self.store.discard(path):
            raise StorageError(f"{self.store.uri}/{path} no longer holds, and this role may not delete it: delete it")
        self.view.release(_key(job))

    @override
    def touch(self, job: Job) -> None:
        with suppress(StorageError):  # a role that only reads uses nothing up
            self.store.create(f"used/{job.stage}/{job.fingerprint}/{time.strftime('%Y-%m-%d', time.gmtime())}", b"")

    @override
    def once(self, job: Job, kind: type[A], build: Callable[[Path], A], *, resumable: bool = False) -> A:
        final = self.folder(job)
        if (done := self.find(job, kind)) is not None:  # before any lock: most stages are
            self.touch(job)
            return done
        self.settle()
        with exclusive(final.with_suffix(".lock"), wait=True, waiter=job.stage):
            while True:
                with claimed(
                    self.store,
                    f"{job.stage}-{job.fingerprint}",
                    waiter=job.stage,
                    done=lambda: self.has(job),
                    node=node_id(),
                ) as claim:
                    if (done := self.find(job, kind)) is not None:
                        return done
                    if claim is None:
                        continue
                    try:
                        with _while_held(claim):
                            record = built(
                                job, kind, build, final.with_suffix(".work"), self.uri(job), resumable=resumable
                            )
                    except ReglageError as error:
                        # Another machine has taken over, or was first: its record counts, whatever became of ours.
                        if claim.is_lost() or (self.has(job) and not isinstance(error, Interrupted)):
                            continue
                        raise
                    return self._commit(job, kind, record, final.with_suffix(".work"))

    def _commit(self, job: Job, kind: type[A], record: A, work: Path) -> A:
        """Upload what was made, then create the record; where another was first, take its."""
        (work / RECORD).unlink(missing_ok=True)
        mine = tree_of(work, record.model_dump(mode="json"))
        stored = create_tree(self.store, _key(job), work, mine)
        if stored.nonce == mine.nonce:
            self.view.adopt(_key(job), mine, work)
            return record
        shutil.rmtree(work, ignore_errors=True)
        return self._artifact(job, kind, stored)

    def _artifact(self, job: Job, kind: type[A], tree: Tree) -> A:
        where = f"{self.store.uri}/{record_path(_key(job))}"
        try:
            return kind.model_validate(tree.artifact, strict=False).model_copy(update={"uri": self.uri(job)})
        except ValidationError as error:
            raise StorageError(
                f"{where} is not a {kind.__name__} record ({error.error_count()} errors); it was made by another "
                "version: delete it to make it again"
            ) from error

    @override
    def shared(self, relative: str | Path) -> Path:
        path = self.root / relative
        self.view.hold_files()  # before the look: what is there now may be on its way out
        told = f"shared/{_posix(relative)}.json"
        if not path.exists() and (record := read_record(self.store, told, SharedFile)):
            return self.view.file(_posix(relative), record.file, told)
        return path

    @override
    def newest(self, relative: str | Path) -> Path:
        path = self.root / relative
        data = self.store.read(_posix(relative))
        with local_errors(path, elsewhere=ELSEWHERE):
            if data is None:  # dropped elsewhere; or written here and not yet sent, so it is left where it is
                return path.with_name(f".{path.name}.gone")
            private_folder(path.parent)
            temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
            temporary.write_bytes(data)
            temporary.replace(path)
        return path

    @override
    def share(self, relative: str | Path) -> None:
        self.settle()
        path = self.root / relative
        with local_errors(path, elsewhere=ELSEWHERE):
            file = TreeFile(path=path.name, sha256=file_digest(path), bytes=path.stat().st_size)
        record = SharedFile(file=file, nonce=uuid.uuid4().hex)
        with lease(self.store, (file.blob,)) as renew:
            there = upload_blobs(self.store, path.parent, (file,), renew)
            self.store.create(f"shared/{_posix(relative)}.json", record_bytes(record))
            upload_blobs(self.store, path.parent, there, renew)  # a collector may have read the leases just before
        self.view.adopt_file(path, file)

    @override
    def replace(self, relative: str | Path) -> None:
        self.settle()
        path = self.root / relative
        with local_errors(path, elsewhere=ELSEWHERE):
            self.store.put_file(path, _posix(relative), file_digest(path))

    @override
    def names(self, folder: str | Path) -> list[str]:
        shared = (name.removesuffix(".json") for name in self.store.list(f"shared/{_posix(folder)}"))
        return sorted({*shared, *self.store.list(_posix(folder))})

    @override
    def carry(self, folder: Path) -> str:
        folder = folder.absolute()
        if (inside := self._own(folder)) is not None:
            return inside
        with local_errors(folder):
            facts = sorted((str(p), s.st_size, s.st_mtime_ns) for p in folder.rglob("*") if (s := p.stat()))
        seen = (digest([[*fact] for fact in facts]), os.getpid())
        if (uri := self._folders.get(seen)) is None:
            self.settle()
            tree = tree_of(folder, {})
            key = f"carried/{digest([*([file.path, file.sha256] for file in tree.files), *tree.folders])[:32]}"
            if self.store.size(record_path(key)) is None:
                create_tree(self.store, key, folder, tree)
            uri = self._folders[seen] = f"{self.store.uri}/{key}"
        return uri

    @override
    def carried(self, value: M) -> M:
        return cast("M", with_uris(value, self._reference))

    @override
    def drop(self, relative: str | Path) -> None:
        super().drop(relative)
        for path in (f"shared/{_posix(relative)}.json", _posix(relative)):
            self.store.discard(path)

    @override
    @contextmanager
    def hold(self, relative: str, *, wait: bool, waiter: str = "") -> Generator[None]:
        """Hold a name: on this node by a lock, among nodes by a claim."""
        self.settle()
        lock = self.root / relative
        with (
            exclusive(lock.with_name(f"{lock.name}.lock"), wait=wait, waiter=waiter),
            claimed(self.store, relative.replace("/", "-"), wait=wait, waiter=waiter, node=node_id()),
        ):
            yield

    def _reference(self, uri: str) -> str:
        return uri if is_remote(uri) or not Path(uri).exists() else self.carry(Path(uri))

    def settle(self) -> None:
        """Prove, once for a place, that the store keeps create-only writes.

        Raises StorageError for one that does not, that is absent, that may not be written to, or that is a registry.
        """
        if self._settled:
            return
        if read_record(self.store, PLACE, Settled) is None:
            self._check_apart()
            probe(self.store)
            self.store.create(PLACE, record_bytes(Settled(nonce=uuid.uuid4().hex, at=utc_now())))
        self._settled = True

    def _check_apart(self) -> None:
        """Raise StorageError where a registry lies: its collector deletes blobs that no version needs."""
        if self.store.read("registry.json") is not None:
            raise StorageError(
                f"{self.store.uri} holds a registry, whose collector deletes what no version needs; give the work "
                "place a prefix of its own"
            )

    def _own(self, folder: Path) -> str | None:
        """Return where a folder of the view of a tree is in the bucket; None for a folder from elsewhere."""
        if folder.is_relative_to(self.root):
            relative = folder.relative_to(self.root)
            if relative.parts[0] == "carried" or (relative.parts[0] == "stages" and "." not in relative.parts[2]):
                return f"{self.store.uri}/{relative.as_posix()}"
        return None


def _posix(relative: str | Path) -> str:
    return Path(relative).as_posix()


def _key(job: Job) -> str:
    return f"stages/{job.stage}/{job.fingerprint}"


_making: ContextVar[tuple[str, ...]] = ContextVar("_making", default=())
"""The holders of the claims that this context's work is done under."""


@contextmanager
def _while_held(claim: Claim) -> Generator[None]:
    """End this work at its next sign of life once its claim was taken: another goes on with it.

    A sign counts from any thread that was given this one's context, as who follows the workers of a training is.
    """
    mine = _making.set((*_making.get(), claim.holder))

    def check(_: Progress) -> None:
        if claim.lost.is_set() and claim.holder in _making.get():
            raise ClaimLostError(f"{claim.name}: another machine took it over, since no sign of life came from here")

    try:
        with listen(check):
            yield
    finally:
        _making.reset(mine)
