"""Jsonl, csv and parquet files, on this machine or in an S3 bucket: a path, a glob or a folder."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from msgspec import structs
from pydantic import Field

from ftlib.data.listed import FileVersion, ListedFile, PinnedAlready
from ftlib.data.row_files import COMPRESSED, SUFFIXES, read_file
from ftlib.data.rows import BadRow, Row
from ftlib.data.sources.base import SourceBase
from ftlib.data.sources.listing import FileStatus, PathListing, list_bucket, list_path, once, pin_listed
from ftlib.errors import DataError, RecipeError, StorageError
from ftlib.storage import Objects, Place, open_objects
from ftlib.storage.files import local_errors
from ftlib.storage.store import StoredObject


class Files(SourceBase):
    """Rows from files, by suffix; compressed ones too.

    Files("rows.jsonl")               one file
    Files("rows/*.parquet")           a glob; `**` means any folders
    Files("rows/")                    every row file in the folder and below
    Files("s3://bucket/rows/")        the same in a bucket, all three

    Names that start with . or _ or end with .tmp are left out. A relative path counts from the current folder.
    Credentials for a bucket come from the environment.
    """

    kind: Literal["files"] = "files"
    path: str
    """A file, a glob or a folder, here or in a bucket."""
    endpoint_url: str | None = None
    """Of an S3 server that is not AWS."""
    settle_seconds: float = Field(default=0.0, ge=0.0)
    """A file written less than this long ago waits for a later run."""
    marker: str | None = Field(default=None, pattern=r"^[^/]+$")
    """A file's name, `_SUCCESS` for one: the files of a folder wait until the folder has it."""
    drop_columns: tuple[str, ...] = ()
    """Columns that nobody reads: they are left out before a row is judged."""

    def list(self) -> tuple[ListedFile, ...]:
        """List the files without reading them. Raises DataError if there are none."""
        place = self._place()
        listing = list_bucket(place, self.marker) if place.remote else list_path(self.path, self.marker)
        files = once(file for file in listing.files if listing.what != "folder" or _is_rows(file.uri))
        if not files:
            raise DataError(_nothing(place, listing))
        for file in files:
            if not _is_rows(file.uri):
                suffix = Path(file.uri).suffix
                raise DataError(
                    f"{file.uri}: suffix {suffix!r}, allowed are {', '.join(SUFFIXES)}; convert or rename it"
                )
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
        bucket = self._bucket()
        return tuple(_pinned(file, known, bucket) for file in settled)

    def read(self, files: tuple[FileVersion, ...], row_bytes: int) -> Iterator[Row | BadRow]:
        """Read the pinned files in the order of their digests, so that names and folders do not matter."""
        bucket, drop = self._bucket(), frozenset(self.drop_columns)
        for file in sorted(files, key=lambda file: file.sha256):
            yield from (
                read_file(file, row_bytes, drop) if bucket is None else _read_object(bucket, file, row_bytes, drop)
            )

    def _place(self) -> Place:
        try:
            return Place.parse(self.path, self.endpoint_url)
        except StorageError as error:
            raise RecipeError(f"the source's path {error}") from None

    def _bucket(self) -> Objects | None:
        place = self._place()
        return open_objects(place) if place.remote else None

    def _settled(self, file: FileStatus, listing: PathListing) -> bool:
        if self.marker is not None and file.folder not in listing.marked:
            return False
        # A date from the future is a clock that was set: then it says nothing, and waiting for it could take years.
        return abs(file.age) >= self.settle_seconds


def _nothing(place: Place, listing: PathListing) -> str:
    if listing.what == "folder" and (listing.files or not place.remote):
        return f"{place.uri}: no {', '.join(SUFFIXES)} file in this folder; name the one that is meant"
    problem = "no file matches this glob" if listing.what == "glob" else "no such file or folder"
    looked = "" if place.remote else f" (looked in {Path.cwd()})"
    return f"{place.uri}: {problem}{looked}; correct the source's path"


def _is_rows(uri: str) -> bool:
    return uri.lower().endswith((*SUFFIXES, *COMPRESSED))


def _pinned(file: ListedFile, known: PinnedAlready | None, bucket: Objects | None) -> FileVersion:
    if bucket is None:
        return pin_listed(file, known)
    sha256 = (known and known.sha256.get(file.identity)) or bucket.copy(_stored(bucket, file), None)
    return FileVersion(uri=file.uri, bytes=file.bytes, sha256=sha256, version=file.version)


def _stored(bucket: Objects, file: ListedFile | FileVersion) -> StoredObject:
    return StoredObject(file.uri.removeprefix(bucket.uri("")), file.version, file.bytes, 0.0)


def _read_object(bucket: Objects, file: FileVersion, row_bytes: int, drop: frozenset[str]) -> Iterator[Row | BadRow]:
    """Read an object through a copy on this machine's disk: parquet has to be read from its end."""
    suffix = next(s for s in (*COMPRESSED, *SUFFIXES) if file.uri.lower().endswith(s))
    with tempfile.TemporaryDirectory(prefix="reglage-") as folder:
        copy = Path(folder, f"object{suffix}")
        with local_errors(copy, file.bytes), copy.open("wb") as stream:
            bucket.copy(_stored(bucket, file), stream)
        try:
            for row in read_file(file.model_copy(update={"uri": str(copy)}), row_bytes, drop):
                yield structs.replace(row, uri=file.uri) if isinstance(row, Row) else replace(row, uri=file.uri)
        except DataError as error:
            raise DataError(str(error).replace(str(copy), file.uri)) from error
