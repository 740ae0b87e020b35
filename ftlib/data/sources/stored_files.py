"""What sources that read files under a path have in common: how they are listed, wait until they are whole, are pinned.

A path is a file, a glob or a folder, on this machine or in a bucket.
"""

from __future__ import annotations

import hashlib
import io
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from pydantic import Field

from ftlib.data.listed import FileVersion, ListedFile, PinnedAlready
from ftlib.data.row_files.budget import compare
from ftlib.data.sources.base import SourceBase
from ftlib.data.sources.listing import FileStatus, PathListing, list_bucket, list_path, once, pin_listed
from ftlib.errors import DataError, RecipeError, StorageError
from ftlib.storage import Objects, Place, open_objects
from ftlib.storage.files import meant_path
from ftlib.storage.store import StoredObject

_AT_ONCE = 16
"""Objects of a bucket that are hashed at a time: one by one, each would wait for a reply of its own."""


class StoredFiles(SourceBase, ABC):
    """Files under a path. Names that start with . or _ or end with .tmp are left out.

    A relative path counts from the current folder. Credentials for a bucket come from the environment.
    """

    path: str
    """A file, a glob or a folder, here or in a bucket."""
    endpoint_url: str | None = None
    """Of an S3 server that is not AWS."""
    settle_seconds: float = Field(default=0.0, ge=0.0)
    """A file written less than this long ago waits for a later run."""
    marker: str | None = Field(default=None, pattern=r"^[^/]+$")
    """A file's name, `_SUCCESS` for one: the files of a folder wait until the folder has it."""

    @property
    @abstractmethod
    def suffixes(self) -> tuple[str, ...]:
        """Return how the names of the files that are read end, in lower case."""

    @property
    def wanted(self) -> tuple[str, ...]:
        """Return those of the suffixes that messages name: what is read only to be refused is none of them."""
        return self.suffixes

    def is_read(self, uri: str) -> bool:
        """Say whether a file's name has such an end."""
        return uri.lower().endswith(self.suffixes)

    def list(self) -> tuple[ListedFile, ...]:
        """List the files without reading them. Raises DataError if there are none."""
        place, listing = self.place(), self.listing()
        files = once(file for file in listing.files if listing.what != "folder" or self.is_read(file.uri))
        if not files:
            raise DataError(self._nothing(place, listing))
        for file in files:
            if not self.is_read(file.uri):
                suffix = Path(file.uri).suffix
                raise DataError(
                    f"{file.uri}: suffix {suffix!r}, allowed are {', '.join(self.wanted)}; convert or rename it"
                )
        return self.listed(files, listing)

    def listing(self) -> PathListing:
        """Return all that is under the path."""
        place = self.place()
        return list_bucket(place, self.marker) if place.remote else list_path(self.path, self.marker)

    def listed(self, files: Iterable[FileStatus], listing: PathListing) -> tuple[ListedFile, ...]:
        """Return files of a listing, with whether they may still be written."""
        return tuple(
            ListedFile(uri=f.uri, version=f.version, bytes=f.bytes, settled=self._settled(f, listing)) for f in files
        )

    def pin(
        self, listed: Sequence[ListedFile] | None = None, known: PinnedAlready | None = None
    ) -> tuple[FileVersion, ...]:
        """Freeze a listing, by default that of now: every settled file with its sha256.

        Only files whose version is not in `known` are read. Raises DataError if one changed since it was listed, or if
        all of them still wait.
        """
        listed = self.list() if listed is None else listed
        settled = [file for file in listed if file.settled]
        if not settled:
            raise DataError(
                f"{self.path}: all {len(listed)} files may still be written (settle_seconds: {self.settle_seconds:g}, "
                f"marker: {self.marker}); wait for them, or correct the source"
            )
        bucket = self.bucket()
        if bucket is None:
            return tuple(pin_listed(file, known) for file in settled)
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return tuple(pool.map(partial(_pinned, known=known, bucket=bucket), settled))

    def bucket(self) -> Objects | None:
        """Return the bucket that the path names, or None for a path on this machine."""
        place = self.place()
        return open_objects(place) if place.remote else None

    def place(self) -> Place:
        """Return where the path leads. Raises RecipeError for what no storage here opens."""
        try:
            return Place.parse(self.path, self.endpoint_url)
        except StorageError as error:
            raise RecipeError(f"the source's path {error}") from None

    def _settled(self, file: FileStatus, listing: PathListing) -> bool:
        if self.marker is not None and file.folder not in listing.marked:
            return False
        # A date from the future is a clock that was set: then it says nothing, and waiting for it could take years.
        return abs(file.age) >= self.settle_seconds

    def _nothing(self, place: Place, listing: PathListing) -> str:
        if listing.what == "folder" and (listing.files or not place.remote):
            return f"{place.uri}: no {', '.join(self.wanted)} file in this folder; name the one that is meant"
        wanted = "no file matches this glob" if listing.what == "glob" else "no such file or folder"
        if place.remote:
            return f"{place.uri}: {wanted}; correct the path"
        remedy = "" if listing.what == "glob" else meant_path(place.key)
        return f"{place.uri}: {wanted} (looked in {Path.cwd()}){remedy or '; correct the path'}"


def stored_object(bucket: Objects, file: ListedFile | FileVersion) -> StoredObject:
    """Return a listed file as its bucket knows it."""
    return StoredObject(file.uri.removeprefix(bucket.uri("")), file.version, file.bytes, 0.0)


def read_whole(bucket: Objects | None, file: FileVersion) -> bytes:
    """Return a pinned file's bytes. Raises DataError if they are others now."""
    if bucket is not None:
        stream = io.BytesIO()
        compare(file, bucket.copy(stored_object(bucket, file), stream))
        return stream.getvalue()
    try:
        data = Path(file.uri).read_bytes()
    except OSError as error:
        raise DataError(f"{file.uri}: {error.strerror}; make it readable or take it out of the source") from error
    compare(file, hashlib.sha256(data).hexdigest())
    return data


def _pinned(file: ListedFile, known: PinnedAlready | None, bucket: Objects) -> FileVersion:
    sha256 = (known and known.sha256.get(file.identity)) or bucket.copy(stored_object(bucket, file), None)
    return FileVersion(uri=file.uri, bytes=file.bytes, sha256=sha256, version=file.version)
