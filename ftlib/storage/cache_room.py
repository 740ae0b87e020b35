"""Room on this node's disk: what is least recently used goes, and never what a living process has asked for."""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

from ftlib.errors import StorageError
from ftlib.storage.files import local_errors, private_folder
from ftlib.storage.locks import is_named

LOOKS = 64
"""A process looks how full the cache is once it has filled this part of the quota."""

ABANDONED_SECONDS = 2 * 86400.0
"""What a stage or a training of this node left half-made is cleared when nothing in it changed for so long."""


class Room:
    """How much of the disk the cache may take, and what goes when that is reached."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache
        self._unseen = 0
        self._looked = False
        self._lock = threading.Lock()

    def quota(self) -> int:
        """Return how many bytes the cache may hold. Raises StorageError for a REGLAGE_CACHE_GB that is no number."""
        asked = os.environ.get("REGLAGE_CACHE_GB")
        if asked is None:
            existing = next(folder for folder in (self.cache, *self.cache.parents) if folder.is_dir())
            return shutil.disk_usage(existing).total // 2
        try:
            quota = float(asked)
        except ValueError:
            quota = -1.0
        if not 0 <= quota < float("inf"):
            raise StorageError(f"REGLAGE_CACHE_GB is {asked!r}; give a number of gigabytes, for example 200")
        return int(quota * 1e9)

    def took(self, count: int) -> None:
        """Say that so many bytes were added."""
        with self._lock:
            self._unseen += count

    def make(self, count: int, *, full: bool = False) -> bool:
        """Make room for so many bytes, where the disk is `full` whatever the quota says; say if anything went."""
        quota = self.quota()
        with self._lock:
            if self._looked and not full and self._unseen + count < quota // LOOKS:
                return False
            self._looked, self._unseen = True, 0
        private_folder(self.cache)
        with (self.cache / "room.lock").open("a+b", buffering=0) as alone:
            fcntl.flock(alone, fcntl.LOCK_EX)
            cleared = self._clear_abandoned()
            blobs = {entry.stat().st_ino: entry for entry in self._blobs()}
            held = sum(entry.stat().st_size for entry in blobs.values())
            excess = max(held + count - quota, count if full else 0)
            freed = sum(self._remove_unlinked(blobs, excess))
            for lock in sorted(self._locks(), key=_last_used) if freed < excess else ():
                if freed >= excess:
                    break
                freed += self._remove_view(lock, blobs)
            fcntl.flock(alone, fcntl.LOCK_UN)
        return freed + cleared > 0

    def put_away(self, folder: Path) -> None:
        """Take a view's folder away at once: who has files of it open reads on."""
        gone = folder.with_name(f"{folder.name}.gone-{uuid.uuid4().hex[:8]}")
        with suppress(FileNotFoundError):
            folder.rename(gone)
            shutil.rmtree(gone, ignore_errors=True)

    def _clear_abandoned(self) -> int:
        """Clear what ended processes left half-made, which is no blob and in no quota; return how many folders."""
        cleared = 0
        for view in (Path(entry.path) for entry in _entries(self.cache / "work")):
            for folder in (*view.glob("stages/*/*.work"), *view.glob("attempts/*"), *view.glob("stages/*/*.gone-*")):
                if time.time() - _last_changed(folder) < ABANDONED_SECONDS:
                    continue
                # Who builds the stage or drives the training here holds its lock.
                with ExitStack() as held, suppress(BlockingIOError, FileNotFoundError):
                    for lock in view.glob(f"stages/*/{folder.name.partition('.')[0]}.lock"):
                        stream = held.enter_context(lock.open("r+b", buffering=0))
                        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder, ignore_errors=True)
                    cleared += 1
        return cleared

    def _blobs(self) -> Iterator[os.DirEntry[str]]:
        for shelf in _entries(self.cache / "blobs"):
            for entry in _entries(Path(shelf.path)):
                with suppress(FileNotFoundError):
                    if len(entry.name) == 64 and entry.stat().st_ino:
                        yield entry

    def _locks(self) -> list[Path]:
        return [*(self.cache / "work").glob("*/*.held"), *(self.cache / "work").glob("*/*/**/*.held")]

    @staticmethod
    def _remove_unlinked(blobs: dict[int, os.DirEntry[str]], excess: int) -> Iterator[int]:
        """Remove blobs that no view has, those first that were written first."""
        freed = 0
        for entry in sorted(blobs.values(), key=lambda entry: entry.stat().st_mtime):
            if freed >= excess:
                return
            with suppress(FileNotFoundError):
                now = os.stat(entry.path)
                if now.st_nlink == 1:
                    os.unlink(entry.path)
                    freed += now.st_size
                    yield now.st_size

    def _remove_view(self, lock: Path, blobs: dict[int, os.DirEntry[str]]) -> int:
        """Remove what a lock stands for, with the blobs that nobody else has; nothing where a process holds it."""
        freed = 0
        with suppress(FileNotFoundError), lock.open("r+b", buffering=0) as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return 0
            if not is_named(stream, lock):
                return 0
            with local_errors(lock):
                for path in _files_of(lock):
                    with suppress(FileNotFoundError):
                        now = path.stat()
                        if (blob := blobs.get(now.st_ino)) is None:
                            continue
                        path.unlink()
                        if now.st_nlink == 2:
                            os.unlink(blob.path)
                            freed += now.st_size
                if lock.name != FILES:
                    shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
                    lock.with_suffix(".tree").unlink(missing_ok=True)
                lock.unlink(missing_ok=True)
        return freed


FILES = "files.held"
"""The lock of all files of a view that are in no tree."""


def _files_of(lock: Path) -> Iterator[Path]:
    if lock.name != FILES:
        yield from (path for path in lock.with_suffix("").rglob("*") if path.is_file())
        return
    for entry in _entries(lock.parent):
        if entry.is_dir() and entry.name not in ("stages", "carried"):
            yield from (path for path in Path(entry.path).rglob("*") if path.is_file())


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    with suppress(FileNotFoundError, NotADirectoryError):
        return list(os.scandir(folder))
    return []


def _last_changed(folder: Path) -> float:
    """Return when anything in a folder was last written; now for one that changes while it is looked at."""
    try:
        return max(path.lstat().st_mtime for path in (folder, *folder.rglob("*")))
    except FileNotFoundError:
        return time.time()


def _last_used(lock: Path) -> float:
    with suppress(FileNotFoundError):
        return lock.stat().st_mtime
    return 0.0
