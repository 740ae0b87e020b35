"""Files on this machine: whole or absent, hashed in the pass that copies them, errors that name a remedy."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import socket
import stat
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from ftlib.config import user_path
from ftlib.errors import IntegrityError, ReglageError, StorageError
from ftlib.wording import counted, nearest


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


def take_name(folder: Path, target: Path) -> bool:
    """Rename a whole folder to `target`, to survive a power cut; False where another that is not empty was first."""
    try:
        folder.rename(target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False
    flush_folder(target.parent)
    return True


def make_folder(folder: Path) -> None:
    """Make a folder and its parents so that they survive a power cut."""
    new = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for missing in new:
        flush_folder(missing.parent)


def private_folder(folder: Path) -> None:
    """Make a folder and its missing parents, which may hold what rows say, for this user alone.

    Below a set-group-ID folder, which a group shares on purpose, the group has what the umask leaves it. Folders that
    are there keep the mode that somebody gave them.
    """
    for missing in reversed([parent for parent in (folder, *folder.parents) if not parent.exists()]):
        shared = missing.parent.stat().st_mode & stat.S_ISGID
        missing.mkdir(mode=0o770 if shared else 0o700, exist_ok=True)


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


def expect(sha256: str, actual: str, where: str) -> None:
    """Raise IntegrityError if two digests differ."""
    if actual != sha256:
        raise IntegrityError(
            f"{where} has sha256 {actual[:16]}…, recorded is {sha256[:16]}…: its bytes were changed; "
            "restore it from a copy, or publish again"
        )


def missing(where: str) -> str:
    """Say that a file a version needs is gone."""
    return f"{where} is missing though a version needs it; restore it from a copy or publish again"


def meant_path(path: str) -> str:
    """Write, to be added to a message, the path that is there and was perhaps meant: `; did you mean 'x'?`."""
    asked = absent = user_path(path)
    while absent.parent not in (absent, Path()) and not absent.parent.is_dir():
        absent = absent.parent
    try:
        names = [entry.name for entry in islice(os.scandir(absent.parent), _LOOKED_AT)]
    except OSError:
        return ""
    if (near := nearest(absent.name, names, 0.8)) is None:  # a suffix alone makes others 0.7 alike
        return ""
    whole = absent.with_name(near) / asked.relative_to(absent)
    return f"; did you mean '{whole}'?" if whole.exists() else ""


_LOOKED_AT = 1000
"""Names of a folder, however many it holds, among which a misspelt one is looked for."""


@contextmanager
def local_errors(path: Path, needed: int = 0, elsewhere: str = "choose another place") -> Generator[None]:
    """Turn what the operating system refuses for a local file into StorageError: one line with a remedy.

    `needed` is what was to be written, in bytes, if that is known; `elsewhere` how the user chooses another place. An
    error of the network is none of a file's, and passes.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None or isinstance(error, (ConnectionError, TimeoutError, socket.gaierror)):
            raise
        where = error.filename if isinstance(error.filename, (str, Path)) else path
        raise _refused(error.errno, Path(where), needed, elsewhere) from error
    except Exception as error:
        number_in_text = None if isinstance(error, ReglageError) else _OS_ERROR.search(str(error))
        if number_in_text is None:
            raise
        raise _refused(int(number_in_text[1] or number_in_text[2]), path, needed, elsewhere) from error


_OS_ERROR = re.compile(r"\(os error (\d+)\)|\[[Ee]rrno (\d+)\]")
"""How libraries tell the system's error in their own words: safetensors, which is written in Rust, and pyarrow."""


def _refused(number: int, path: Path, needed: int, elsewhere: str) -> StorageError:
    return StorageError(f"{path}: {os.strerror(number)}; {_remedy(number, path, needed, elsewhere)}")


def in_bytes(count: int) -> str:
    """Write a number of bytes with three digits that count: 512 bytes, 12.3 kB, 4.56 GB."""
    size, units = float(count), ["kB", "MB", "GB", "TB"]
    if count < 1000:
        return counted(count, "byte")
    while (size := size / 1000) >= 999.5 and len(units) > 1:
        units.pop(0)
    return f"{size:#.3g} {units[0]}".replace(". ", " ") if size < 999.5 else f"{size:.0f} {units[0]}"


_REMEDIES = {
    errno.EDQUOT: "this user's quota is used up: free space there or {elsewhere}",
    errno.EFBIG: "a file may not be as large there: raise the limit (`ulimit -f`) or {elsewhere}",
    errno.EROFS: "nothing can be written there: mount it writable or {elsewhere}",
    errno.EACCES: "this user may not: change its permissions or {elsewhere}",
    errno.EPERM: "this user may not: change its permissions or {elsewhere}",
    errno.ENAMETOOLONG: "shorten the name or {elsewhere}",
    errno.EMFILE: "this process has too many files open: raise the limit (`ulimit -n`)",
    errno.ENFILE: "the machine has too many files open: raise its limit (fs.file-max)",
    errno.ENOENT: "it is not there, or not any more: put it back and try again, or {elsewhere}",
    errno.ENOTDIR: "a file stands where a folder is needed: move it away or {elsewhere}",
    errno.EISDIR: "a folder stands where a file is needed: move it away or {elsewhere}",
    errno.EEXIST: "something else stands there: move it away or {elsewhere}",
    errno.ELOOP: "its links lead in a circle: correct them or {elsewhere}",
    errno.EIO: "the disk could not read or write: look at the machine's log, and {elsewhere}",
    errno.ESTALE: "the server took the mount away: mount it again",
    errno.ENOLCK: "the file system keeps no locks: {elsewhere}, on one that does",
}
"""By the error's number. What fits none of them can only be tried elsewhere."""


def _remedy(number: int, path: Path, needed: int, elsewhere: str) -> str:
    asked = f"{in_bytes(needed)} are needed and " if needed and number in (errno.ENOSPC, errno.EFBIG) else ""
    if number != errno.ENOSPC:
        return asked + _REMEDIES.get(number, "{elsewhere}").format(elsewhere=elsewhere)
    existing = next((parent for parent in (path, *path.absolute().parents) if parent.is_dir()), Path("/"))
    return f"{asked}{in_bytes(shutil.disk_usage(existing).free)} are free: free space there or {elsewhere}"
