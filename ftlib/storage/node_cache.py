"""This node's disk in front of work places in buckets: files by digest, filled once, and a view of every place.

    <REGLAGE_CACHE, by default ~/.cache/reglage/node>/
      blobs/ab/<64 hex>                        a file's bytes, read-only
      work/<digest of the place>/              this node's view of a place: what a work folder would be
        stages/<stage>/<fingerprint>/...         hard links to blobs, made as they are asked for
        stages/<stage>/<fingerprint>.held        held shared (flock) by every process that has asked for it
        stages/<stage>/<fingerprint>.tree        the record that the links were made by

Any number of processes and threads fill it at once: each blob is fetched under a lock of its own, hashed while it is
written, and gets its name when it is whole and on the disk. What is least recently used goes when the quota
(`REGLAGE_CACHE_GB`, by default half of the disk) is reached; what a living process of this node has asked for stays.
"""

from __future__ import annotations

import atexit
import errno
import fcntl
import hashlib
import json
import os
import re
import threading
import uuid
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from io import FileIO
from pathlib import Path

from ftlib.errors import IntegrityError, StorageError
from ftlib.storage import Place, Store, open_store
from ftlib.storage.cache_room import Room
from ftlib.storage.files import flush_file, local_errors, private_folder
from ftlib.storage.locks import flocked
from ftlib.storage.place import is_remote
from ftlib.storage.sealed_records import record_bytes
from ftlib.storage.trees import Tree, TreeFile, read_tree, record_path
from ftlib.storage.user_cache import cache_root

ELSEWHERE = "set REGLAGE_CACHE to a folder on another disk"
TREES = re.compile(r"(.+?)/((?:stages/[a-z_]+/[0-9a-f]{16})|(?:carried/[0-9a-f]{32}))(?:/(.+))?")
"""A place, a tree of it, and a part of that."""


def local_path(uri: str) -> Path:
    """Return what a reference names as this node sees it: a path as it is, of a bucket's tree this node's copy.

    Of a part of a tree (`.../<fingerprint>/model`) only its files are fetched; one that the tree does not have is a
    path where nothing is. What was returned stays until this process ends. Raises StorageError if there is no such
    tree, or if it cannot be had whole.
    """
    if not is_remote(uri):
        return Path(uri)
    match = TREES.fullmatch(uri)
    if match is None:
        raise StorageError(f"{uri} is no output of a stage in a bucket: allowed is .../stages/<stage>/<fingerprint>")
    return node_view(Place.parse(match[1])).local(match[2], match[3] or "")


def is_output(uri: str) -> bool:
    """Say whether a reference names a stage's output in a bucket, a carried folder, or a part of one."""
    return is_remote(uri) and TREES.fullmatch(uri.rstrip("/")) is not None


def node_id() -> str:
    """Return what tells this node's cache from others', whose locks are not ours. Raises StorageError."""
    path = cache_root() / "node.id"
    with local_errors(path, elsewhere=ELSEWHERE):
        if not path.exists():
            private_folder(path.parent)
            made = path.with_name(f".node.{uuid.uuid4().hex}.part")
            made.write_text(uuid.uuid4().hex)
            with suppress(FileExistsError):
                os.link(made, path)  # unlike a rename it leaves the one that is there
            made.unlink()
        return path.read_text()


def node_view(place: Place) -> NodeView:
    """Return this node's view of a work place, one for all threads of this process."""
    server = place.endpoint_url or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    key = (str(cache_root()), place.uri, server)
    with _views.lock:
        if key not in _views.made:
            _views.made[key] = NodeView(place, cache_root(), server)
        return _views.made[key]


@dataclass
class _Views:
    made: dict[tuple[str, str, str], NodeView] = field(default_factory=dict["tuple[str, str, str]", "NodeView"])
    lock: threading.Lock = field(default_factory=threading.Lock)


_views = _Views()


def _after_fork() -> None:
    """Give a forked process locks that none of its parent's threads had, and connections of its own."""
    _views.lock = threading.Lock()
    for view in _views.made.values():
        view.forked()


os.register_at_fork(after_in_child=_after_fork)


@atexit.register
def _release_all() -> None:
    for view in _views.made.values():
        view.release_all()


@dataclass
class _Held:
    """A tree that this process has asked for."""

    tree: Tree
    lock: FileIO
    whole: set[str] = field(default_factory=set[str])
    """The parts that are there."""


class NodeView:
    """A work place as this node sees it."""

    def __init__(self, place: Place, cache: Path, server: str = "") -> None:
        self.place, self.cache = place, cache
        self.root = cache / "work" / hashlib.sha256(f"{place.uri}\n{server}".encode()).hexdigest()[:16]
        self._held: dict[str, _Held] = {}
        self.forked()

    def forked(self) -> None:
        """Begin again with locks and connections; what is held stays held by whoever inherits it."""
        self._lock = threading.RLock()
        self.room = Room(self.cache)
        self.store: Store = open_store(self.place)
        self._writing: dict[str | None, Store] = {self.place.kms_key: self.store}

    def writing(self, kms_key: str | None) -> Store:
        """Return the place's store that writes with a key: this view is all runs', and each may have its own."""
        with self._lock:
            if kms_key not in self._writing:
                self._writing[kms_key] = open_store(replace(self.place, kms_key=kms_key))
            return self._writing[kms_key]

    def local(self, key: str, part: str = "") -> Path:
        """Return a tree's folder, or a part of it, whose files are there. Raises what `local_path` raises."""
        held = self._held.get(key) or self._enter(key)
        folder = self.root / key
        if part not in held.whole:
            with local_errors(folder, elsewhere=ELSEWHERE):
                for empty in held.tree.folders:
                    (folder / empty).mkdir(parents=True, exist_ok=True)
                for file in held.tree.below(part):
                    self._link(file, folder / file.path, record_path(key))
            held.whole.add(part)
        return folder / part if part else folder

    def tree(self, key: str) -> Tree | None:
        """Read a tree's record, as it is now: this process goes by it from here on."""
        tree = read_tree(self.store, key)
        held = self._held.get(key)
        if held is not None and (tree is None or tree.nonce != held.tree.nonce):
            self.release(key)
        return tree

    def adopt(self, key: str, tree: Tree, made: Path) -> None:
        """Take a folder that was made here for the tree's, whose files it has: none of them is fetched again."""
        folder = self.root / key
        with local_errors(folder, elsewhere=ELSEWHERE):
            for file in {file.sha256: file for file in tree.files}.values():
                (made / file.path).chmod(0o444)
                self._name(made / file.path, file)
            self._enter(key, tree, made)
        self.room.took(sum(file.bytes for file in tree.files))

    def adopt_file(self, path: Path, file: TreeFile) -> None:
        """Count a file of the view that was made here among what is kept by digest."""
        with local_errors(path, elsewhere=ELSEWHERE):
            self._name(path, file)
        self.room.took(file.bytes)

    def file(self, relative: str, file: TreeFile, record: str) -> Path:
        """Return a file of the view beside its trees, fetched if it must be; it stays until this process ends.

        `record` is the object that tells of it, for who must repair it.
        """
        target = self.root / relative
        self.hold_files()
        with self._lock, local_errors(target, elsewhere=ELSEWHERE):
            self._link(file, target, record)
        return target

    def hold_files(self) -> None:
        """Hold the files of the view beside its trees, those too that are not there yet, until this process ends."""
        with self._lock, local_errors(self.root, elsewhere=ELSEWHERE):
            if "" not in self._held:
                lock = self._hold(self.root / "files.held")
                self._held[""] = _Held(Tree(files=(), nonce="", who="", at=""), lock)

    def release(self, key: str) -> None:
        """Hold a tree no more, in a process that goes on."""
        with self._lock:
            if (held := self._held.pop(key, None)) is not None:
                held.lock.close()

    def release_all(self) -> None:
        """Hold nothing more of this view."""
        for key in [*self._held]:
            self.release(key)

    def _enter(self, key: str, tree: Tree | None = None, made: Path | None = None) -> _Held:
        """Hold a tree for this process, and put away what the view has of another making of it."""
        with self._lock:
            if made is None and key in self._held:
                return self._held[key]
            tree = tree or read_tree(self.store, key)
            if tree is None:
                raise StorageError(
                    f"{self.store.uri}/{key} is not there, or not any more: run again, and what it needs is made again"
                )
            folder, told = self.root / key, self.root / f"{key}.tree"
            with local_errors(folder, elsewhere=ELSEWHERE):
                private_folder(folder.parent)
                lock = self._hold(self.root / f"{key}.held")
                with _alone(self.root / f"{key}.entering"):
                    self._show(tree, folder, told, made)
                self.release(key)
                held = self._held[key] = _Held(tree, lock)
            return held

    def _show(self, tree: Tree, folder: Path, told: Path, made: Path | None) -> None:
        """Make the tree's folder in the view anew if it is of another record, or was made here."""
        record = record_bytes(tree)
        if made is None and told.is_file() and told.read_bytes() == record:
            return
        told.unlink(missing_ok=True)
        self.room.put_away(folder)
        if made is not None:
            made.rename(folder)
        folder.mkdir(exist_ok=True)
        if tree.artifact:
            (folder / "artifact.json").write_text(json.dumps(tree.artifact, indent=1))
        told.write_bytes(record)

    @staticmethod
    def _hold(path: Path) -> FileIO:
        """Hold a tree's lock shared, with other processes; its time of change says when it was last used."""
        stream = flocked(path, shared=True)
        os.utime(path)
        return stream

    def _name(self, path: Path, file: TreeFile) -> None:
        """Keep a file that was made here by its digest."""
        blob = self._blob(file.sha256)
        private_folder(blob.parent)
        if not _is_whole(blob, file):
            flush_file(path)
            with _alone(blob.with_suffix(".lock")):
                _drop_torn(blob, file)
                with suppress(FileExistsError):
                    os.link(path, blob)

    def _link(self, file: TreeFile, target: Path, record: str) -> None:
        """Give a file of the view its bytes. A blob that goes between two steps is fetched again."""
        blob = self._blob(file.sha256)
        while not _is_whole(target, file):
            private_folder(target.parent)
            if not _is_whole(blob, file):
                self._fetch(file, blob, target, record)
                continue
            if target.exists():
                with _alone(blob.with_suffix(".lock")):
                    _drop_torn(target, file)
            with suppress(FileExistsError, FileNotFoundError):
                os.link(blob, target)

    def _fetch(self, file: TreeFile, blob: Path, target: Path, record: str) -> None:
        """Fetch a blob under its lock: of all that want it one does, and the others find it there."""
        incoming = blob.with_name(f".{blob.name}.incoming")
        private_folder(blob.parent)
        with _alone(blob.with_suffix(".lock")):
            if _is_whole(blob, file):
                return
            _drop_torn(target, file)
            for left in blob.parent.glob(f".*{blob.name}*.part"):  # of who was killed
                left.unlink(missing_ok=True)
            self.room.make(file.bytes)
            try:
                self._get(file, incoming)
            except IntegrityError as error:
                raise StorageError(
                    f"{str(error).partition(';')[0]}: {self.store.uri}/{record} needs it; put the object back, or "
                    "delete both, and the next run makes it again"
                ) from error
            incoming.chmod(0o444)
            flush_file(incoming)  # a power cut leaves of a file that was only renamed its name, and no bytes
            with suppress(FileExistsError):
                os.link(incoming, target)  # first: a blob that nobody has may go as soon as it has its name
            incoming.replace(blob)
            self.room.took(file.bytes)

    def _get(self, file: TreeFile, target: Path) -> None:
        try:
            self.store.get_file(file.blob, target, file.sha256)
        except IntegrityError:  # perhaps only harmed on the way
            self.store.get_file(file.blob, target, file.sha256)
        except StorageError as error:
            full = isinstance(error.__cause__, OSError) and error.__cause__.errno in (errno.ENOSPC, errno.EDQUOT)
            if not full:
                raise
            if not self.room.make(file.bytes, full=True):
                raise StorageError(str(error).replace("choose another place", ELSEWHERE)) from error
            self.store.get_file(file.blob, target, file.sha256)

    def _blob(self, sha256: str) -> Path:
        return self.cache / "blobs" / sha256[:2] / sha256


def _is_whole(path: Path, file: TreeFile) -> bool:
    """Say whether a file is there with all its bytes: of what a power cut tore, a disk keeps less."""
    try:
        return path.stat().st_size == file.bytes
    except FileNotFoundError:
        return False


def _drop_torn(path: Path, file: TreeFile) -> None:
    if not _is_whole(path, file):
        path.unlink(missing_ok=True)


@contextmanager
def _alone(lock: Path) -> Generator[None]:
    """Hold a blob's lock alone; it is gone when nobody waits for it."""
    with flocked(lock) as stream:
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)
            fcntl.flock(stream, fcntl.LOCK_UN)  # a child that was forked meanwhile has the file open too
