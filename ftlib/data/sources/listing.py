"""What is under a path: a file, a glob or a folder, on this machine or in a bucket, without reading a byte of it."""

from __future__ import annotations

import glob
import heapq
import os
import stat
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal, NamedTuple

from ftlib.config import user_path
from ftlib.data.listed import FileVersion, ListedFile, PinnedAlready
from ftlib.data.row_files import pin_file
from ftlib.errors import DataError
from ftlib.storage import Objects, Place, open_objects
from ftlib.storage.store import StoredObject

_COARSE = 2.0
"""Seconds within which some file systems date two writes alike."""
_UNFINISHED = ".tmp"
_EVERYTHING = ("**", "*")
"""A folder is this glob below it, so that both ways to ask give one answer."""


class FileStatus(NamedTuple):
    """One file."""

    uri: str
    version: str
    bytes: int
    age: float
    """Seconds since it was last written, by the clock that dated it; negative if that clock was set back."""
    real: str
    """Its path without links: the same for two names of one file."""
    linked: bool
    """Whether a link below the asked path leads to it."""

    @property
    def folder(self) -> str:
        """Return the folder it is in."""
        return self.uri.rpartition("/")[0]


class PathListing(NamedTuple):
    """All that is there; empty if nothing is."""

    what: Literal["file", "glob", "folder"]
    files: list[FileStatus]
    marked: frozenset[str]
    """The folders that hold the marker."""


def list_path(path: str, marker: str | None) -> PathListing:
    """List a local path. Names that start with `.` or `_` or end with `.tmp` are left out, unless asked for by name.

    A part of the path that is there as it is written is no pattern. Links are followed. Raises DataError for one that
    leads nowhere and for a folder that cannot be read: what they hold cannot be told.
    """
    base, pattern = _written(user_path(path).absolute())
    top = _Entry(base, os.path.realpath(base), False, False, os.path.isdir(base))
    if pattern:
        asked_as = "glob" if any(map(glob.has_magic, pattern)) else "file"
        entries = _expand(top, pattern)
    elif top.folder:
        asked_as, entries = "folder", _expand(top, _EVERYTHING)
    else:
        asked_as, entries = "file", iter((_regular(top),))
    files = [file for entry in entries if (file := _stat(entry))]
    folders = {file.folder for file in files} if marker else set[str]()
    marked = frozenset(folder for folder in folders if os.path.isfile(f"{folder}/{marker}"))
    return PathListing(asked_as, sorted(files), marked)


def list_folder(folder: Path) -> list[FileStatus]:
    """List every file in a folder and below, hidden ones too. Raises DataError as `list_path` does."""
    top = _Entry(str(folder.absolute()), os.path.realpath(folder), False, False, True)
    entries = (child for below in _walk(top, hidden=True) for child in _children(below) if not child.folder)
    return sorted(file for entry in entries if (file := _stat(entry)))


def once(files: Iterable[FileStatus]) -> list[FileStatus]:
    """Leave one name of every file: where links lead to it, that without, then the first.

    Raises DataError for a name that is not UTF-8, which no record can hold.
    """
    names: dict[str, FileStatus] = {}
    for file in sorted(files, key=lambda file: (file.linked, file.uri)):
        try:
            file.uri.encode()
        except UnicodeEncodeError:
            shown = os.fsencode(file.uri).decode(errors="backslashreplace")
            raise DataError(f"{shown}: the name is not UTF-8; rename the file or its folder") from None
        names.setdefault(file.real, file)
    return sorted(names.values())


def list_bucket(place: Place, marker: str | None) -> PathListing:
    """List a key, a prefix that ends with a slash, or a glob; `*` and `?` stop at a slash, `**` does not.

    A part of the key that is there as it is written is no pattern.
    """
    bucket, key = open_objects(place), place.key
    base, pattern = _written_key(bucket, key)
    if pattern:
        files = _objects(bucket, base if marker else base + _before_magic(pattern))
        matching = _matching(files, base, pattern.split("/"))
        return PathListing("glob", matching, _marked(files, marker))
    first = next(bucket.walk(key), None) if key and not key.endswith("/") else None
    if first is not None and first.key == key:
        base = key.rpartition("/")[0]
        beside = _objects(bucket, f"{base}/{marker}".lstrip("/")) if marker else []
        return PathListing("file", [_file_status(bucket, first)], _marked(beside, marker))
    base = f"{key.rstrip('/')}/" if key else ""
    files = _objects(bucket, base)
    return PathListing("folder", _matching(files, base, _EVERYTHING), _marked(files, marker))


def list_below(bucket: Objects, key: str) -> list[FileStatus]:
    """List every object below a key, hidden ones too."""
    return _objects(bucket, f"{key}/" if key else "")


def base_of(place: Place) -> str:
    """Return the folder below which a path's files are told apart, a glob's before its pattern; no slash at its end."""
    if place.remote:
        bucket = open_objects(place)
        return bucket.uri(_written_key(bucket, place.key)[0]).rstrip("/")
    base, pattern = _written(user_path(place.key).absolute())
    return base if pattern or os.path.isdir(base) else base.rpartition("/")[0]


class _Entry(NamedTuple):
    """A file or folder on this machine."""

    path: str
    real: str
    link: bool
    linked: bool
    """Whether it or a folder above it, below the asked path, is a link."""
    folder: bool

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    def child(self, name: str, *, link: bool, folder: bool) -> _Entry:
        path = os.path.join(self.path, name)
        moved = link or name == ".."
        real = os.path.realpath(path) if moved else os.path.join(self.real, name)
        return _Entry(path, real, link, self.linked or moved, folder)


def _written(path: Path) -> tuple[str, list[str]]:
    """Cut a path behind what is there as it is written; the rest is a pattern."""
    existing, parts = path.anchor, list(path.parts[1:])
    while parts and os.path.lexists(os.path.join(existing, parts[0])):
        existing = os.path.join(existing, parts.pop(0))
    return existing, parts


def _expand(top: _Entry, pattern: Sequence[str]) -> Iterator[_Entry]:
    """Yield what a pattern's parts mean below `top`, links followed."""
    if not pattern or not top.folder:
        if top.linked:
            _refuse_dangling(top.path)
        if not pattern:
            yield top
        return
    part, rest = pattern[0], pattern[1:]
    if part == "**":
        for folder in _walk(top):
            yield from _expand(folder, rest or ("*",))
    elif os.path.lexists(path := os.path.join(top.path, part)):
        yield from _expand(top.child(part, link=os.path.islink(path), folder=os.path.isdir(path)), rest)
    elif glob.has_magic(part):
        for child in _children(top):
            if fnmatchcase(child.name, part) and not _hidden(child.name, part):
                yield from _expand(child, rest)


def _walk(top: _Entry, *, hidden: bool = False) -> Iterator[_Entry]:
    """Yield a folder and those below it, each once however many links lead to it, by a name without links first.

    Raises DataError for a visible link that leads nowhere: it may stand for a folder of rows.
    """
    seen = set[str]()
    folders, links = [top], list[_Entry]()
    while folders or links:
        folder = folders.pop() if folders else heapq.heappop(links)
        if folder.real in seen:
            continue
        seen.add(folder.real)
        yield folder
        for child in _children(folder):
            visible = not _hidden(child.name, "")
            if child.link and visible and not child.folder:
                _refuse_dangling(child.path)
            if not child.folder or not (hidden or visible):
                continue
            if child.link:
                heapq.heappush(links, child)
            else:
                folders.append(child)


def _children(parent: _Entry) -> Iterator[_Entry]:
    try:
        with os.scandir(parent.path) as entries:
            children = [(entry.name, entry.is_symlink(), entry.is_dir(follow_symlinks=False)) for entry in entries]
    except FileNotFoundError:  # taken away since it was listed
        return
    except OSError as error:
        raise DataError(f"{parent.path}: {error.strerror}; make it readable or take it out of the source") from error
    for name, link, folder in children:
        # The entry's own is_dir() raises for a link to itself.
        yield parent.child(name, link=link, folder=folder or (link and os.path.isdir(os.path.join(parent.path, name))))


def _refuse_dangling(path: str) -> None:
    if os.path.islink(path) and not os.path.exists(path):
        raise DataError(
            f"{path} is a link to {os.readlink(path)}, which is not there; fetch what it stands for, or remove the link"
        )


def _regular(entry: _Entry) -> _Entry:
    """Return a file that was asked for by name. Raises DataError if it is a pipe, a device or a link to nothing."""
    _refuse_dangling(entry.path)
    if not os.path.isfile(entry.path):
        raise DataError(f"{entry.path} is neither a file nor a folder; write the rows to a file")
    return entry


def _written_key(bucket: Objects, key: str) -> tuple[str, str]:
    """Cut a key before the first part that is a pattern and not there as it is written."""
    base, parts = "", key.split("/")
    while parts:
        here = base + parts[0]
        if glob.has_magic(parts[0]):
            below = next(bucket.walk(f"{here}/"), None)
            itself = next(bucket.walk(here), None) if len(parts) == 1 else None
            if below is None and (itself is None or itself.key != here):
                return base, "/".join(parts)
        base = f"{here}/"
        parts.pop(0)
    return key, ""


def _before_magic(pattern: str) -> str:
    return pattern[: next(i for i, c in enumerate(pattern) if c in "*?[")]


def _matching(files: Iterable[FileStatus], base: str, pattern: Sequence[str]) -> list[FileStatus]:
    """Return the objects below `base` that a pattern means, in order."""
    keys = [(file, file.uri.split("/", 3)[3].removeprefix(base).split("/")) for file in files]
    existing = {tuple(parts[:depth]) for _, parts in keys for depth in range(1, len(parts) + 1)}
    return sorted(file for file, parts in keys if _matches((), tuple(parts), tuple(pattern), existing))


def _matches(
    before: tuple[str, ...], parts: tuple[str, ...], pattern: tuple[str, ...], existing: Collection[tuple[str, ...]]
) -> bool:
    if not pattern or not parts:
        return not pattern and not parts
    part, deeper = pattern[0], (*before, parts[0])
    if part == "**":
        below = _matches(before, parts, pattern[1:] or ("*",), existing)
        return below or (not _hidden(parts[0], "") and _matches(deeper, parts[1:], pattern, existing))
    written = (*before, part) in existing
    fits = parts[0] == part if written else fnmatchcase(parts[0], part) and not _hidden(parts[0], part)
    return fits and _matches(deeper, parts[1:], pattern[1:], existing)


def list_file(path: Path) -> ListedFile | None:
    """List one local file; None if there is none."""
    status = _stat(_Entry(str(path), str(path), False, False, False))
    return status and ListedFile(uri=status.uri, version=status.version, bytes=status.bytes)


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


def _stat(entry: _Entry) -> FileStatus | None:
    """Return a regular file; None for anything else."""
    try:
        status = os.stat(entry.path)
    except FileNotFoundError:  # taken away since its name was listed
        return None
    except OSError as error:
        raise DataError(f"{entry.path}: {error.strerror}; make it readable or take it out of the source") from error
    if not stat.S_ISREG(status.st_mode):
        return None
    # Not st_mtime: copying tools set it to the original's, long before the copy is complete.
    age = time.time() - status.st_ctime
    return FileStatus(entry.path, _version(status), status.st_size, age, entry.real, entry.linked)


def _objects(bucket: Objects, prefix: str) -> list[FileStatus]:
    # What consoles make for an empty folder ends with a slash.
    return [_file_status(bucket, stored) for stored in bucket.walk(prefix) if not stored.key.endswith("/")]


def _file_status(bucket: Objects, stored: StoredObject) -> FileStatus:
    uri = bucket.uri(stored.key)
    return FileStatus(uri, stored.version, stored.bytes, stored.age, uri, False)


def _marked(files: Iterable[FileStatus], marker: str | None) -> frozenset[str]:
    return frozenset(file.folder for file in files if file.uri.rpartition("/")[2] == marker)


def _hidden(name: str, pattern: str) -> bool:
    """Say whether a name is hidden or unfinished; a pattern that begins with _ or ., or ends with .tmp, asks for it."""
    if name.startswith((".", "_")) and name[0] != pattern[:1]:
        return True
    return name.endswith(_UNFINISHED) and not pattern.endswith(_UNFINISHED)
