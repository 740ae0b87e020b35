"""Where one training's files are: a folder that every rank sees, or a bucket, and a folder of each node's own.

    <folder>/...                              all of it: checkpoints, curves, signs of life, the result
    <bucket>/<work>/attempts/<fingerprint>/   begun/00000003.json, created by the third attempt's driver when it begins;
                                              checkpoints/, which the attempts hand on
        00000003/                             the third's own: curves/00000001.jsonl, ranks/, stop, failure.json and
                                              result.json; what is written whole lies as blobs of the work place
    <node's cache>/attempts/<...>/            in a bucket's case: what this node's ranks write before it goes up

Each driver begins an attempt of its own, so no two share a request to stop, a failure, a result or a curve. It goes on
from the checkpoints of those before it, and takes the result of one that was finished. An attempt behind which another
has begun, or whose objects were cleared since its output has its record, is superseded: it writes and deletes no
checkpoint any more, and its workers end behind their step. Nothing is cleared before the record is there.

Ranks that share nothing but the bucket meet there in small objects under names that are known before: whether one is
there is read from its key, and no listing decides anything.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import uuid
from collections.abc import Generator, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ftlib.errors import StorageError, TransientError
from ftlib.fingerprint import file_digest
from ftlib.storage import Place, Store, open_objects, safe_relpath
from ftlib.storage.files import local_errors, private_folder
from ftlib.storage.node_cache import NodeView, node_view
from ftlib.storage.place import is_remote
from ftlib.storage.trees import TreeFile
from ftlib.workspace import Workspace, write_durably

ATTEMPTS = "attempts"
RESULT = "result.json"
_BEGUN = "begun"
_NUMBERED = re.compile(rf"(.+/{ATTEMPTS}/[^/]+)/([0-9]{{8}})")
_AT_ONCE = 8
"""Requests for small objects under way."""


@dataclass(frozen=True)
class Aged:
    """A small file and its age."""

    name: str
    data: bytes
    seconds: float
    """How much older it is than the newest beside it, by the clock of the store or the file system."""


class RunPlace:
    """One training's files as one rank, or the driver, sees them. Names are relative, with `/`."""

    def __init__(self, run: str, kms_key: str | None = None) -> None:
        """Take a plan's `run`: a folder, or `<work>/attempts/<fingerprint>/<number>` in a bucket. Touches nothing yet.

        The key is what a bucket's store encrypts with.

        Raises StorageError for a place that is none.
        """
        self.uri = run
        self.store: Store | None = None
        """None where all ranks see `folder`."""
        self._kms_key = kms_key
        self._work, self._prefix = "", ""
        self._view: NodeView | None = None
        if not is_remote(run):
            self.folder = Path(run)
            """On this machine: the run's own, or what this node holds of it."""
            return
        self._work, found, name = run.partition(f"/{ATTEMPTS}/")
        if not found or not name:
            raise StorageError(f"{run!r} is no training's place: it lies below {ATTEMPTS}/ of a work place")
        self._prefix = f"{ATTEMPTS}/{name}"
        view = self._view = node_view(Place.parse(self._work))
        self.store = view.writing(kms_key)
        self.folder = view.root / ATTEMPTS / name

    @property
    def is_shared(self) -> bool:
        """Say whether all ranks see one folder."""
        return self.store is None

    @property
    def elsewhere(self) -> str:
        """Return how the user chooses another disk."""
        return "choose another --work" if self.store is None else "set REGLAGE_CACHE to a folder of another disk"

    def below(self, name: str) -> RunPlace:
        """Return a place of its own inside this one."""
        return RunPlace(f"{self.uri}/{name}", self._kms_key)

    @property
    def lasting(self) -> RunPlace:
        """Return where this attempt finds what those before it left, and leaves it: in a folder there is one place."""
        numbered = None if self.is_shared else _NUMBERED.fullmatch(self.uri)
        return RunPlace(numbered[1], self._kms_key) if numbered else self

    @property
    def number(self) -> int:
        """Return which attempt this is; 0 where they are not numbered."""
        numbered = None if self.is_shared else _NUMBERED.fullmatch(self.uri)
        return int(numbered[2]) if numbered else 0

    def earlier(self) -> Iterator[RunPlace]:
        """Yield the places of the attempts before this one, the last first."""
        for number in range(self.number - 1, 0, -1):
            yield self.lasting.below(f"{number:08d}")

    @property
    def is_superseded(self) -> bool:
        """Say whether another attempt has begun behind this one, or all were cleared, since the output is there."""
        if not self.number:
            return False
        all_of_them = self.lasting
        return all_of_them.has(_begun(self.number + 1)) or not all_of_them.has(_begun(self.number))

    def name_of(self, name: str) -> str:
        """Return a file's path, or its URI, for another process to read."""
        return str(self.folder / name) if self.store is None else f"{self.uri}/{name}"

    def path(self, name: str) -> str:
        """Return a name as the work place's store knows it."""
        return f"{self._prefix}/{name}"

    def has(self, name: str) -> bool:
        """Say whether a file is there, by its own name."""
        return (self.folder / name).exists() if self.store is None else self.store.size(self.path(name)) is not None

    def read(self, name: str) -> bytes | None:
        """Return a small file's bytes, None if there is none."""
        if self.store is not None:
            return self.store.read(self.path(name))
        try:
            return (self.folder / name).read_bytes()
        except FileNotFoundError:
            return None

    def write(self, name: str, data: bytes) -> None:
        """Write a small file, whole, in the place of one that may be there. Raises StorageError, TransientError."""
        if self.store is None:
            write_durably(self.folder / name, data)
        else:
            self.store.write(self.path(name), data)

    def create(self, name: str, data: bytes) -> bool:
        """Write a small object of a bucket if there is none, or say that another one is there; `data` is unique.

        A lost reply makes our own write look like another's, so what is there is read back.
        """
        store = self._bucket()
        return store.create(self.path(name), data) or store.read(self.path(name)) == data

    def discard(self, *names: str) -> None:
        """Delete files that nobody needs, some at a time."""
        if self.store is None:
            for name in names:
                (self.folder / name).unlink(missing_ok=True)
        elif names:
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                list(pool.map(self.store.discard, map(self.path, names)))

    def numbered(self, folder: str, suffix: str, after: int = 0) -> Iterator[tuple[int, bytes]]:
        """Yield a bucket's objects `<folder>/<number><suffix>` behind number `after`, until the next is absent."""
        store = self._bucket()
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            width = 1  # most often there is nothing new
            while True:
                numbers = range(after + 1, after + 1 + width)
                found = list(pool.map(lambda n: store.read(self.path(f"{folder}/{n:08d}{suffix}")), numbers))
                for number, data in zip(numbers, found, strict=True):
                    if data is None:
                        return
                    yield number, data
                after, width = numbers[-1], _AT_ONCE

    def aged(self, folder: str) -> list[Aged]:
        """Return the small files of a folder in order of their names, for people to read: nothing is decided by them.

        In a bucket the ages are the server's, so no two machines' clocks are compared.
        """
        found: list[tuple[str, bytes, float]] = []
        if self.store is None:
            for file in sorted((self.folder / folder).glob("*.json")):
                try:
                    found.append((file.name, file.read_bytes(), -file.stat().st_mtime))
                except OSError:
                    continue
        else:
            place = Place.parse(f"{self._work}/{self.path(folder)}")
            for listed in open_objects(place).walk(place.folder()):
                name = listed.key.rpartition("/")[2]
                if (data := self.read(f"{folder}/{name}")) is not None:
                    found.append((name, data, listed.age))
        newest = min((age for _, _, age in found), default=0.0)
        return [Aged(name, data, age - newest) for name, data, age in found]

    def upload(self, path: Path, name: str, sha256: str) -> None:
        """Upload a file of this node, in the place of one that may be there."""
        self._bucket().put_file(path, self.path(name), sha256)

    def read_range(self, name: str, start: int, count: int) -> bytes:
        """Return some bytes of an object. Raises what the store's `read_range` raises."""
        return self._bucket().read_range(self.path(name), start, count)

    def give(self, names: Iterable[str]) -> dict[str, list[str | int]]:
        """Upload files of this node, and all below folders, as blobs of the work place; nothing that is there already.

        Returns digest and size of each by its name; empty where all ranks see the folder.
        """
        files: dict[str, list[str | int]] = {}
        for name in names:
            top = self.folder / name
            for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
                if not self.is_shared and path.is_file():
                    file = TreeFile(path=path.name, sha256=file_digest(path), bytes=path.stat().st_size)
                    if self._bucket().size(file.blob) != file.bytes:
                        self._bucket().put_file(path, file.blob, file.sha256)
                    self._node().adopt_file(path, file)  # a driver on this node fetches nothing
                    files[path.relative_to(self.folder).as_posix()] = [file.sha256, file.bytes]
        return files

    def take(self, files: Mapping[str, list[str | int]], folder: Path, result: str) -> None:
        """Put files that `give` told of into a folder, by this node's cache; the object `result` names them.

        Raises StorageError for a damaged blob.
        """
        for name, (sha256, size) in files.items():
            target = folder / safe_relpath(name)
            file = TreeFile(path=target.name, sha256=str(sha256), bytes=int(size))
            own = self._node().file(f"{self._prefix}/result/{name}", file, self.path(result))
            with local_errors(target, file.bytes, self.elsewhere):
                private_folder(target.parent)
                target.unlink(missing_ok=True)
                _link(own, target)
        if files:
            shutil.rmtree(self.folder / "result", ignore_errors=True)

    def clear(self, *folders: str) -> None:
        """Delete what lies below folders of the run, or all of it: of what is done, so a listing may miss an object."""
        for folder in folders or ("",):
            shutil.rmtree(self.folder / folder, ignore_errors=True)
        if self.store is None:
            return
        place = Place.parse(f"{self._work}/{self._prefix}")
        prefix = place.folder()
        for folder in folders or ("",):
            begins = f"{prefix}{folder}/" if folder else prefix
            keys = [listed.key.removeprefix(prefix) for listed in open_objects(place).walk(begins)]
            self.discard(*keys)

    def end(self) -> None:
        """Forget what a bucket and this node have of all attempts at a run whose output has its record."""
        if not self.is_shared:
            with suppress(StorageError, TransientError):
                self.lasting.clear()

    @contextmanager
    def shown_in(self, folder: Path, name: str) -> Generator[None]:
        """Let who follows a file in `folder` see this node's while the block runs, where that is not the run's own."""
        link = folder / name
        if not self.is_shared:
            link.unlink(missing_ok=True)
            link.symlink_to(self.folder / name)
        try:
            yield
        finally:
            if not self.is_shared:
                link.unlink(missing_ok=True)

    def _node(self) -> NodeView:
        assert self._view is not None
        return self._view

    def _bucket(self) -> Store:
        assert self.store is not None, "a folder that all ranks see has no such step"
        return self.store


@lru_cache(maxsize=8)
def _opened(run: str, kms_key: str | None, process: int, cache: str | None) -> RunPlace:
    del process, cache  # a forked process has connections of its own
    return RunPlace(run, kms_key)


def run_place(run: str, kms_key: str | None = None) -> RunPlace:
    """Return the place of a plan's `run`, with the connections that this process has to it."""
    return _opened(run, kms_key, os.getpid(), os.environ.get("REGLAGE_CACHE"))


def attempt_of(work: Workspace, fingerprint: str, folder: Path) -> str:
    """Return what a job's plan calls `run`: the folder that its stage builds in; in a bucket begin an attempt.

    Where the last attempt has a result, which its driver did not come to record, that one is returned.
    """
    if work.store is None:
        return str(folder)
    attempts = RunPlace(f"{work.store.uri}/{ATTEMPTS}/{fingerprint}", work.place.kms_key)
    # A listing that is behind costs a create that fails, and nothing else.
    number = max((int(name[:8]) for name in work.store.list(attempts.path(_BEGUN))), default=0)
    if number and (last := attempts.below(f"{number:08d}")).has(RESULT):
        return last.uri
    number += 1
    while not attempts.create(_begun(number), json.dumps({"nonce": uuid.uuid4().hex}).encode()):
        number += 1
    return attempts.below(f"{number:08d}").uri


def _begun(number: int) -> str:
    return f"{_BEGUN}/{number:08d}.json"


def result_bytes(place: RunPlace, facts: Mapping[str, float | int | str], names: Iterable[str]) -> bytes:
    """Return what a finished run says: its facts, and in a bucket also where the files are, which are uploaded."""
    return json.dumps(facts if place.is_shared else {"facts": facts, "files": place.give(names)}).encode()


def _link(own: Path, target: Path) -> None:
    try:
        os.link(own, target)
    except OSError:  # another file system
        shutil.copyfile(own, target)
