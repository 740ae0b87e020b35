"""Storage in a folder."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import uuid
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from typing_extensions import override

from ftlib.config import user_path
from ftlib.errors import IntegrityError
from ftlib.storage.files import appearing, copy, expect, flush, flush_folder, local_errors, make_folder, missing
from ftlib.storage.store import Store, safe_relpath


class LocalStore(Store):
    """A folder on a local or shared disk that has hard links."""

    def __init__(self, root: Path) -> None:
        self.root = user_path(root).absolute()
        self._swept = False

    @property
    def uri(self) -> str:
        """Return the folder's absolute path."""
        return str(self.root)

    @override
    def read(self, path: str) -> bytes | None:
        target = self._path(path)
        with local_errors(target):
            try:
                return target.read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                return None

    @override
    def read_range(self, path: str, start: int, count: int) -> bytes:
        source = self._path(path)
        with local_errors(source):
            try:
                with source.open("rb") as stream:
                    stream.seek(start)
                    return stream.read(count)
            except (FileNotFoundError, NotADirectoryError):
                raise IntegrityError(missing(str(source))) from None

    @override
    def create(self, path: str, data: bytes) -> bool:
        target = self._path(path)
        with local_errors(target, len(data)), self._temporary() as (temporary, stream):
            stream.write(data)
            flush(stream)
            make_folder(target.parent)
            try:
                os.link(temporary, target)  # unlike rename, it refuses to replace
            except FileExistsError:
                return False
            flush_folder(target.parent)
            return True

    @override
    def write(self, path: str, data: bytes) -> None:
        target = self._path(path)
        with local_errors(target, len(data)), self._temporary() as (temporary, stream):
            stream.write(data)
            self._replace(temporary, stream, target)

    @override
    def put_file(self, source: Path, path: str, sha256: str) -> None:
        target = self._path(path)
        needed = source.stat().st_size
        with local_errors(target, needed), self._temporary() as (temporary, stream), source.open("rb") as data:
            expect(sha256, copy(data, stream), str(source))
            self._replace(temporary, stream, target)

    @override
    def get_file(self, path: str, target: Path, sha256: str) -> None:
        source = self._path(path)
        with local_errors(source, self.size(path) or 0), appearing(target) as stream:
            try:
                with source.open("rb") as data:
                    digest = copy(data, stream)
            except FileNotFoundError:
                raise IntegrityError(missing(str(source))) from None
            expect(sha256, digest, str(source))

    @override
    def list(self, folder: str) -> list[str]:
        where = self._path(folder)
        with local_errors(where):
            if not where.is_dir():
                return []
            return sorted(f"{entry.name}/" if entry.is_dir() else entry.name for entry in os.scandir(where))

    @override
    def size(self, path: str) -> int | None:
        target = self._path(path)
        with local_errors(target):
            try:
                return target.stat().st_size
            except (FileNotFoundError, NotADirectoryError):
                return None

    @override
    def discard(self, path: str) -> bool:
        target = self._path(path)
        with local_errors(target):
            target.unlink(missing_ok=True)
            return True

    @override
    def leftovers(self, *, remove: bool) -> list[str]:
        folder = self.root / ".tmp"
        with local_errors(folder):
            return self._of_the_dead(folder, remove=remove) if folder.is_dir() else []

    def _path(self, path: str) -> Path:
        return self.root / safe_relpath(path)

    @staticmethod
    def _replace(temporary: Path, stream: BinaryIO, target: Path) -> None:
        flush(stream)
        make_folder(target.parent)
        temporary.replace(target)
        flush_folder(target.parent)

    @contextmanager
    def _temporary(self) -> Generator[tuple[Path, BinaryIO]]:
        """Open a file that is locked while we live, so that a later writer can tell a dead one's leftovers."""
        folder = self.root / ".tmp"
        folder.mkdir(parents=True, exist_ok=True)
        if not self._swept:
            self._of_the_dead(folder, remove=True)
            self._swept = True
        while True:
            path = folder / f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex}"
            with path.open("xb") as stream:
                fcntl.flock(stream, fcntl.LOCK_EX)
                if os.fstat(stream.fileno()).st_nlink == 0:  # swept between open and flock
                    continue
                try:
                    yield path, stream
                finally:
                    path.unlink(missing_ok=True)
            return

    @staticmethod
    def _of_the_dead(folder: Path, *, remove: bool) -> list[str]:
        dead: list[str] = []
        for path in sorted(folder.iterdir()):
            try:
                with _opened(path, to_write=remove) as stream:
                    fcntl.flock(stream, (fcntl.LOCK_EX if remove else fcntl.LOCK_SH) | fcntl.LOCK_NB)
                    if remove:
                        path.unlink(missing_ok=True)
            except (FileNotFoundError, BlockingIOError):
                continue  # someone else swept it, or it is being written
            except OSError as error:
                if error.errno != errno.EBADF:
                    raise
                continue  # another user's on NFS: its owner sweeps it
            dead.append(f"{folder.name}/{path.name}")
        return dead


def _opened(path: Path, *, to_write: bool) -> BinaryIO:
    """Open a file to lock it: NFS gives an exclusive lock only to who may write."""
    if to_write:
        with suppress(PermissionError):  # another user's: a local disk locks what is only read, too
            return path.open("r+b")
    return path.open("rb")
