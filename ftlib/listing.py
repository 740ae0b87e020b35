"""What is under a path: a file, a glob or a folder, on this machine or in a bucket, without reading a byte of it."""

from __future__ import annotations

import glob
import os
import stat
import time
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal, NamedTuple

from ftlib.artifacts import FileVersion, ListedFile, PinnedAlready
from ftlib.errors import DataError
from ftlib.row_files import pin_file
from ftlib.storage.objects import Bucket

_COARSE = 2.0
"""Seconds within which some file systems date two writes alike."""
_UNFINISHED = ".tmp"


class Found(NamedTuple):
    """One file."""

    uri: str
    inside: str
    """Its path below the part of the asked path that has no wildcards; empty for a file that was asked for by name."""
    version: str
    bytes: int
    age: float
    """Seconds since it was last written, by the clock that dated it; negative if that clock was set back."""

    @property
    def folder(self) -> str:
        """Return the folder it is in."""
        return self.uri.rpartition("/")[0]


class Listing(NamedTuple):
    """All that is there; empty if nothing is."""

    what: Literal["file", "glob", "folder"]
    files: list[Found]
    marked: frozenset[str]
    """The folders that hold the marker."""


def list_path(path: str, marker: str | None) -> Listing:
    """List a local path. Names that start with `.` or `_` or end with `.tmp` are left out, unless asked for by name."""
    where = Path(os.path.expanduser(path)).absolute()  # Path's own raises for a user that is not there
    if where.is_dir():
        what, names = "folder", _below(str(where))
    elif where.exists():
        what, names = "file", [(str(where), "")]
    else:
        what, names = "glob", _matching(str(where))
    files = [found for name, inside in names if (found := _stat(name, inside))]
    folders = {found.folder for found in files} if marker else set[str]()
    marked = frozenset(folder for folder in folders if os.path.isfile(f"{folder}/{marker}"))
    return Listing(what, _visible(files, what, path), marked)


def list_bucket(uri: str, endpoint_url: str | None, marker: str | None) -> Listing:
    """List `s3://bucket/key`, `s3://bucket/prefix/` or a glob; `*` and `?` stop at a slash, `**` does not."""
    name, _, key = uri.removeprefix("s3://").partition("/")
    bucket = Bucket(name, endpoint_url)
    if glob.has_magic(key):
        base, pattern = _split(key)
        prefix = base if marker else key[: next(i for i, c in enumerate(key) if c in "*?[")]
        found = _objects(bucket, prefix, base)
        wanted = [f for f in found if _matches(f.inside.split("/"), pattern.split("/"))]
        return Listing("glob", _visible(wanted, "glob", pattern), _marked(found, marker))
    first = next(bucket.walk(key), None) if key and not key.endswith("/") else None
    if first is not None and first.key == key:
        base = key.rpartition("/")[0]
        beside = _objects(bucket, f"{base}/{marker}".lstrip("/"), base) if marker else []
        return Listing("file", [Found(uri, "", first.etag, first.bytes, first.age)], _marked(beside, marker))
    base = f"{key.rstrip('/')}/" if key else ""
    found = _objects(bucket, base, base)
    return Listing("folder", _visible(found, "folder", ""), _marked(found, marker))


def _below(folder: str) -> Iterator[tuple[str, str]]:
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not _hidden(name, "")]
        for name in names:
            path = os.path.join(parent, name)
            yield path, os.path.relpath(path, folder) if parent != folder else name


def _matching(pattern: str) -> Iterator[tuple[str, str]]:
    base, _ = _split(pattern)
    for path in glob.iglob(pattern, recursive=True):
        yield path, path.removeprefix(base)


def _split(pattern: str) -> tuple[str, str]:
    """Cut a pattern before the first part that has a wildcard."""
    parts = pattern.split("/")
    first = next((i for i, part in enumerate(parts) if glob.has_magic(part)), len(parts) - 1)
    return "".join(f"{part}/" for part in parts[:first]), "/".join(parts[first:])


def _matches(parts: list[str], pattern: list[str]) -> bool:
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return _matches(parts, pattern[1:]) or (bool(parts) and _matches(parts[1:], pattern))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])


def list_file(path: Path) -> ListedFile | None:
    """List one local file; None if there is none."""
    found = _stat(str(path), "")
    return found and ListedFile(uri=found.uri, version=found.version, bytes=found.bytes)


def pin_listed(file: ListedFile, known: PinnedAlready | None) -> FileVersion:
    """Return a listed file with its sha256, read only if not known. Raises DataError if it changed since."""
    sha256 = known and known.sha256.get(file.identity)
    # The kernel dates a change of any kind (st_ctime): a second write in one tick, or under a date that was put back,
    # looks the same by its token, and is read again.
    if known and sha256 and os.stat(file.uri).st_ctime < known.at - _COARSE:
        return FileVersion(uri=file.uri, bytes=file.bytes, sha256=sha256, version=file.version)
    pinned = pin_file(Path(file.uri))
    now = list_file(Path(file.uri))
    if now is None or now.identity != file.identity:
        raise DataError(
            f"{file.uri} changed since it was listed; run again once it is written, or let files settle: settle_seconds"
        )
    return pinned.model_copy(update={"version": file.version})


def _version(status: os.stat_result) -> str:
    """Return a token that differs where a file's bytes may: another file, or this one written again."""
    return f"{status.st_ino:x}-{status.st_mtime_ns:x}"


def _stat(path: str, inside: str) -> Found | None:
    try:
        status = os.stat(path)
    except FileNotFoundError:  # taken away since its name was listed, or a link to nothing
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    # Not st_mtime: copying tools set it to the original's, long before the copy is complete.
    return Found(path, inside, _version(status), status.st_size, time.time() - status.st_ctime)


def _objects(bucket: Bucket, prefix: str, base: str) -> list[Found]:
    return [
        Found(f"s3://{bucket.name}/{found.key}", found.key[len(base) :], found.etag, found.bytes, found.age)
        for found in bucket.walk(prefix)
        if not found.key.endswith("/")  # what consoles make for an empty folder
    ]


def _marked(found: Iterable[Found], marker: str | None) -> frozenset[str]:
    return frozenset(file.folder for file in found if file.uri.rpartition("/")[2] == marker)


def _visible(files: Iterable[Found], what: str, pattern: str) -> list[Found]:
    """Leave out what is hidden or unfinished, in order of uris. A glob that begins a name with _ or . asks for it."""
    asked = "".join({part[0] for part in pattern.split("/") if part[:1] in ("_", ".")}) if what == "glob" else ""
    return sorted(file for file in files if not any(_hidden(part, asked) for part in file.inside.split("/")))


def _hidden(name: str, asked: str) -> bool:
    return (name.startswith((".", "_")) and name[0] not in asked) or name.endswith(_UNFINISHED)
