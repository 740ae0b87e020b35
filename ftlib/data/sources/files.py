"""Jsonl, csv and parquet files, on this machine or in an S3 bucket: a path, a glob or a folder."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Literal

from msgspec import structs
from typing_extensions import override

from ftlib.data.images.columns import with_images
from ftlib.data.listed import FileVersion, ListedFile
from ftlib.data.row_files import COMPRESSED, SUFFIXES, read_file
from ftlib.data.rows import BadRow, Row
from ftlib.data.sources.images_beside import ImagesBeside, list_images
from ftlib.data.sources.stored_files import StoredFiles, stored_object
from ftlib.errors import DataError
from ftlib.storage import Objects
from ftlib.storage.files import local_errors


class Files(StoredFiles):
    """Rows from files, by suffix; compressed ones too.

    Files("rows.jsonl")               one file
    Files("rows/*.parquet")           a glob; `**` means any folders
    Files("rows/")                    every row file in the folder and below
    Files("s3://bucket/rows/")        the same in a bucket, all three

    Names that start with . or _ or end with .tmp are left out. A relative path counts from the current folder.
    Credentials for a bucket come from the environment.
    """

    kind: Literal["files"] = "files"
    drop_columns: tuple[str, ...] = ()
    """Columns that nobody reads: they are left out before a row is judged."""
    images: tuple[str, ...] = ()
    """Columns that hold images: bytes, base64, or the path of a file, which counts from the folder of the row's file
    or from `images_in`. The images under that folder are part of what the data is."""
    images_in: str | None = None
    """The folder that paths of images count from, here or in the same bucket; by default that of the row's file."""

    introduced: ClassVar[Mapping[str, object]] = {"images": (), "images_in": None}

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Return those of row files."""
        return SUFFIXES

    @override
    def is_read(self, uri: str) -> bool:
        return uri.lower().endswith((*SUFFIXES, *COMPRESSED))

    @property
    @override
    def image_columns(self) -> tuple[str, ...]:
        return self.images

    @override
    def list(self) -> tuple[ListedFile, ...]:
        rows = super().list()
        if not self.images:
            return rows
        images = list_images(self.place(), self.images_in, rows)
        return (*rows, *(ListedFile(uri=file.uri, version=file.version, bytes=file.bytes) for file in images))

    @override
    def apart(self, files: Sequence[FileVersion]) -> tuple[FileVersion, ...]:
        """Return the files of rows, in the order of their digests; where rows name images, they need all files."""
        rows = (file for file in files if self.is_read(file.uri))
        return () if self.images else tuple(sorted(rows, key=lambda file: file.sha256))

    @override
    def cuts(self, file: FileVersion) -> bool:
        return self.bucket() is None and file.uri.lower().endswith((".jsonl", ".ndjson"))

    def read(self, files: tuple[FileVersion, ...], row_bytes: int) -> Iterator[Row | BadRow]:
        """Read the pinned files in the order of their digests, so that names and folders do not matter."""
        bucket, drop = self.bucket(), frozenset(self.drop_columns)
        rows = sorted((file for file in files if self.is_read(file.uri)), key=lambda file: file.sha256)
        images = ImagesBeside(self.place(), self.images_in, files, rows, row_bytes) if self.images else None
        for file in rows:
            of_file = (
                read_file(file, row_bytes, drop, self.images)
                if bucket is None
                else read_object(bucket, file, row_bytes, drop, self.images)
            )
            yield from of_file if images is None else (with_images(row, self.images, images.read) for row in of_file)


def read_object(
    bucket: Objects, file: FileVersion, row_bytes: int, drop: frozenset[str], images: Sequence[str] = ()
) -> Iterator[Row | BadRow]:
    """Read an object through a copy on this machine's disk: parquet has to be read from its end."""
    suffix = next(s for s in (*COMPRESSED, *SUFFIXES) if file.uri.lower().endswith(s))
    with tempfile.TemporaryDirectory(prefix="reglage-") as folder:
        copy = Path(folder, f"object{suffix}")
        with local_errors(copy, file.bytes), copy.open("wb") as stream:
            bucket.copy(stored_object(bucket, file), stream)
        try:
            for row in read_file(file.model_copy(update={"uri": str(copy)}), row_bytes, drop, images):
                yield structs.replace(row, uri=file.uri) if isinstance(row, Row) else replace(row, uri=file.uri)
        except DataError as error:
            raise DataError(str(error).replace(str(copy), file.uri)) from error
