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


class Found(NamedTuple):
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


class Listing(NamedTuple):
    """All that is there; empty if nothing is."""

    what: Literal["file", "glob", "folder"]
    files: list[Found]
    marked: frozenset[str]
    """The folders that hold the marker."""


def list_path(path: str, marker: str | None) -> Listing:
    """List a local path. Names that start with `.` or `_` or end with `.tmp` are left out, unless asked for by name.

    A part of the path that is there as it is written is no pattern. Links are followed. Raises DataError for one that
    leads nowhere and for a folder that cannot be read: what they hold cannot be told.
    """
    base, pattern = _written(user_path(path).absolute())
    top = _Place(base, os.path.realpath(base), False, False, os.path.isdir(base))
    if pattern:
        what = "glob" if any(map(glob.has_magic, pattern)) else "file"
        places = _expand(top, pattern)
    elif top.folder:
        what, places = "folder", _expand(top, _EVERYTHING)
    else:
        what, places = "file", iter((_regular(top),))
    files = [found for place in places if (found := _stat(place))]
    folders = {found.folder for found in files} if marker else set[str]()
    marked = frozenset(folder for folder in folders if os.path.isfile(f"{folder}/{marker}"))
    return Listing(what, sorted(files), marked)


def list_folder(folder: Path) -> list[Found]:
    """List every file in a folder and below, hidden ones too. Raises DataError as `list_path` does."""
    top = _Place(str(folder.absolute()), os.path.realpath(folder), False, False, True)
    places = (child for below in _walk(top, hidden=True) for child in _children(below) if not child.folder)
    return sorted(found for place in places if (found := _stat(place)))


def once(files: Iterable[Found]) -> list[Found]:
    """Leave one name of every file: where links lead to it, that without, then the first.

    Raises DataError for a name that is not UTF-8, which no record can hold.
    """
    names: dict[str, Found] = {}
    for file in sorted(files, key=lambda file: (file.linked, file.uri)):
        try:
            file.uri.encode()
        except UnicodeEncodeError:
            shown = os.fsencode(file.uri).decode(errors="backslashreplace")
            raise DataError(f"{shown}: the name is not UTF-8; rename the file or its folder") from None
        names.setdefault(file.real, file)
    return sorted(names.values())


def list_bucket(place: Place, marker: str | None) -> Listing:
    """List a key, a prefix that ends with a slash, or a glob; `*` and `?` stop at a slash, `**` does not.

    A part of the key that is there as it is written is no pattern.
    """
    bucket, key = open_objects(place), place.key
    base, pattern = _written_key(bucket, key)
    if pattern:
        found = _objects(bucket, base if marker else base + _before_magic(pattern))
        wanted = _matching(found, base, pattern.split("/"))
        return Listing("glob", wanted, _marked(found, marker))
    first = next(bucket.walk(key), None) if key and not key.endswith("/") else None
    if first is not None and first.key == key:
        base = key.rpartition("/")[0]
        beside = _objects(bucket, f"{base}/{marker}".lstrip("/")) if marker else []
        return Listing("file", [_found(bucket, first)], _marked(beside, marker))
    base = f"{key.rstrip('/')}/" if key else ""
    found = _objects(bucket, base)
    return Listing("folder", _matching(found, base, _EVERYTHING), _marked(found, marker))


def list_below(bucket: Objects, key: str) -> list[Found]:
    """List every object below a key, hidden ones too."""
    return _objects(bucket, f"{key}/" if key else "")


def base_of(place: Place) -> str:
    """Return the folder below which a path's files are told apart, a glob's before its pattern; no slash at its end."""
    if place.remote:
        bucket = open_objects(place)
        return bucket.uri(_written_key(bucket, place.key)[0]).rstrip("/")
    base, pattern = _written(user_path(place.key).absolute())
    return base if pattern or os.path.isdir(base) else base.rpartition("/")[0]


class _Place(NamedTuple):
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

    def child(self, name: str, *, link: bool, folder: bool) -> _Place:
        path = os.path.join(self.path, name)
        moved = link or name == ".."
        real = os.path.realpath(path) if moved else os.path.join(self.real, name)
        return _Place(path, real, link, self.linked or moved, folder)


def _written(where: Path) -> tuple[str, list[str]]:
    """Cut a path behind what is there as it is written; the rest is a pattern."""
    there, parts = where.anchor, list(where.parts[1:])
    while parts and os.path.lexists(os.path.join(there, parts[0])):
        there = os.path.join(there, parts.pop(0))
    return there, parts


def _expand(place: _Place, pattern: Sequence[str]) -> Iterator[_Place]:
    if not pattern or not place.folder:
        if place.linked:
            _refuse_dangling(place.path)
        if not pattern:
            yield place
        return
    part, rest = pattern[0], pattern[1:]
    if part == "**":
        for folder in _walk(place):
            yield from _expand(folder, rest or ("*",))
    elif os.path.lexists(path := os.path.join(place.path, part)):
        yield from _expand(place.child(part, link=os.path.islink(path), folder=os.path.isdir(path)), rest)
    elif glob.has_magic(part):
        for child in _children(place):
            if fnmatchcase(child.name, part) and not _hidden(child.name, part):
                yield from _expand(child, rest)


def _walk(top: _Place, *, hidden: bool = False) -> Iterator[_Place]:
    """Yield a folder and those below it, each once however many links lead to it, by a name without links first.

    Raises DataError for a visible link that leads nowhere: it may stand for a folder of rows.
    """
    seen = set[str]()
    folders, links = [top], list[_Place]()
    while folders or links:
        place = folders.pop() if folders else heapq.heappop(links)
        if place.real in seen:
            continue
        seen.add(place.real)
        yield place
        for child in _children(place):
            visible = not _hidden(child.name, "")
            if child.link and visible and not child.folder:
                _refuse_dangling(child.path)
            if not child.folder or not (hidden or visible):
                continue
            if child.link:
                heapq.heappush(links, child)
            else:
                folders.append(child)


def _children(place: _Place) -> Iterator[_Place]:
    try:
        with os.scandir(place.path) as entries:
            found = [(entry.name, entry.is_symlink(), entry.is_dir(follow_symlinks=False)) for entry in entries]
    except FileNotFoundError:  # taken away since it was listed
        return
    except OSError as error:
        raise DataError(f"{place.path}: {error.strerror}; make it readable or take it out of the source") from error
    for name, link, folder in found:
        # The entry's own is_dir() raises for a link to itself.
        yield place.child(name, link=link, folder=folder or (link and os.path.isdir(os.path.join(place.path, name))))


def _refuse_dangling(path: str) -> None:
    if os.path.islink(path) and not os.path.exists(path):
        raise DataError(
            f"{path} is a link to {os.readlink(path)}, which is not there; fetch what it stands for, or remove the link"
        )


def _regular(place: _Place) -> _Place:
    """Return a file that was asked for by name. Raises DataError if it is a pipe, a device or a link to nothing."""
    _refuse_dangling(place.path)
    if not os.path.isfile(place.path):
        raise DataError(f"{place.path} is neither a file nor a folder; write the rows to a file")
    return place


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


def _matching(found: Iterable[Found], base: str, pattern: Sequence[str]) -> list[Found]:
    """Return the objects below `base` that a pattern means, in order."""
    keys = [(file, file.uri.split("/", 3)[3].removeprefix(base).split("/")) for file in found]
    there = {tuple(parts[:depth]) for _, parts in keys for depth in range(1, len(parts) + 1)}
    return sorted(file for file, parts in keys if _matches((), tuple(parts), tuple(pattern), there))


def _matches(
    before: tuple[str, ...], parts: tuple[str, ...], pattern: tuple[str, ...], there: Collection[tuple[str, ...]]
) -> bool:
    if not pattern or not parts:
        return not pattern and not parts
    part, deeper = pattern[0], (*before, parts[0])
    if part == "**":
        below = _matches(before, parts, pattern[1:] or ("*",), there)
        return below or (not _hidden(parts[0], "") and _matches(deeper, parts[1:], pattern, there))
    written = (*before, part) in there
    fits = parts[0] == part if written else fnmatchcase(parts[0], part) and not _hidden(parts[0], part)
    return fits and _matches(deeper, parts[1:], pattern[1:], there)


def list_file(path: Path) -> ListedFile | None:
    """List one local file; None if there is none."""
    found = _stat(_Place(str(path), str(path), False, False, False))
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


def _stat(place: _Place) -> Found | None:
    """Return a regular file; None for anything else."""
    try:
        status = os.stat(place.path)
    except FileNotFoundError:  # taken away since its name was listed
        return None
    except OSError as error:
        raise DataError(f"{place.path}: {error.strerror}; make it readable or take it out of the source") from error
    if not stat.S_ISREG(status.st_mode):
        return None
    # Not st_mtime: copying tools set it to the original's, long before the copy is complete.
    age = time.time() - status.st_ctime
    return Found(place.path, _version(status), status.st_size, age, place.real, place.linked)


def _objects(bucket: Objects, prefix: str) -> list[Found]:
    # What consoles make for an empty folder ends with a slash.
    return [_found(bucket, found) for found in bucket.walk(prefix) if not found.key.endswith("/")]


def _found(bucket: Objects, found: StoredObject) -> Found:
    uri = bucket.uri(found.key)
    return Found(uri, found.version, found.bytes, found.age, uri, False)


def _marked(found: Iterable[Found], marker: str | None) -> frozenset[str]:
    return frozenset(file.folder for file in found if file.uri.rpartition("/")[2] == marker)


def _hidden(name: str, pattern: str) -> bool:
    """Say whether a name is hidden or unfinished; a pattern that begins with _ or ., or ends with .tmp, asks for it."""
    if name.startswith((".", "_")) and name[0] != pattern[:1]:
        return True
    return name.endswith(_UNFINISHED) and not pattern.endswith(_UNFINISHED)
