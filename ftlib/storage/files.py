"""Files on this machine: whole or absent, hashed in the pass that copies them, errors that name a remedy."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ftlib.errors import IntegrityError, StorageError


@contextmanager
def appearing(target: Path) -> Generator[BinaryIO]:
    """Open a file that gets its name only if the block succeeds; `flush_tree` makes it survive a power cut."""
    part = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")
    try:
        with part.open("x+b") as stream:
            yield stream
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def copy(source: BinaryIO, target: BinaryIO) -> str:
    """Copy and return the sha256 of what was copied, in one pass."""
    running = hashlib.sha256()
    while data := source.read(2**20):
        running.update(data)
        target.write(data)
    return running.hexdigest()


def make_folder(folder: Path) -> None:
    """Make a folder and its parents so that they survive a power cut."""
    new = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for made in new:
        flush_folder(made.parent)


def flush(stream: BinaryIO) -> None:
    """Put a file's bytes on the disk."""
    stream.flush()
    os.fsync(stream.fileno())


def flush_file(path: Path) -> None:
    """Put a closed file's bytes on the disk."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def flush_folder(folder: Path) -> None:
    """Make a new name in a folder survive a power cut: fsync of the file alone does not."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_tree(folder: Path) -> None:
    """Put everything in a folder on the disk, its names too: only then may a rename say that it is whole."""
    for path in (*folder.rglob("*"), folder):
        if path.is_dir():
            flush_folder(path)
        else:
            flush_file(path)


def expect(sha256: str, found: str, where: str) -> None:
    """Raise IntegrityError if two digests differ."""
    if found != sha256:
        raise IntegrityError(f"{where} has sha256 {found[:16]}…, recorded is {sha256[:16]}…: its bytes were changed")


def missing(where: str) -> str:
    """Say that a file a version needs is gone."""
    return f"{where} is missing though a version needs it; restore it from a copy or publish again"


@contextmanager
def local_errors(path: Path, needed: int = 0) -> Generator[None]:
    """Turn the disk's refusals into one line with a remedy."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise StorageError(
            f"{error.filename or path}: {error.strerror}; {_remedy(error.errno, path, needed)}"
        ) from error


def _remedy(number: int, path: Path, needed: int) -> str:
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        there = next(parent for parent in (path, *path.parents) if parent.is_dir())
        free = shutil.disk_usage(there).free
        return f"{needed / 1e6:.1f} MB are needed and {free / 1e6:.1f} MB are free: free space or choose another place"
    if number in (errno.EROFS, errno.EACCES, errno.EPERM):
        return "it cannot be written: make it writable for this user or choose another place"
    return "choose another place"
