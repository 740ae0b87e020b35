"""Images whose folder says their label."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import ClassVar, Literal

from pydantic import Field, field_validator
from typing_extensions import override

from ftlib.data.images.cells import to_cell
from ftlib.data.images.columns import IMAGE_SUFFIXES, OTHER_SUFFIXES
from ftlib.data.listed import FileVersion
from ftlib.data.rows import BadRow, Row, Value
from ftlib.data.sources.listing import base_of
from ftlib.data.sources.stored_files import StoredFiles, read_whole
from ftlib.storage import Objects

_AHEAD = 16
"""Objects of a bucket that are fetched while one is looked at."""


class ImageFolder(StoredFiles):
    """One row for each image file: `image`, `label`, the name of a folder above it, and `path`, within the source's.

    ImageFolder("icons/")             every image in the folder and below
    ImageFolder("icons/*/48x48/")     a glob; `**` means any folders
    ImageFolder("s3://bucket/icons/") the same in a bucket

    Names that start with . or _ or end with .tmp are left out. A relative path counts from the current folder.
    """

    kind: Literal["image_folder"] = "image_folder"
    label_level: int = Field(default=1, ge=-9, le=9)
    """Which folder is the label: 1 is the first below `path`, or below the first `*` of a glob; -1 the image's own."""

    drop_columns: ClassVar[tuple[str, ...]] = ()
    """It has no column that one could do without."""

    @field_validator("label_level")
    @classmethod
    def _counted(cls, level: int) -> int:
        if level == 0:
            raise ValueError("got 0, allowed are 1, 2, ... from the top and -1, -2, ... from the image")
        return level

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Return those of what is decoded, and of what is taken for an image and refused, row by row."""
        return (*IMAGE_SUFFIXES, *OTHER_SUFFIXES)

    @property
    @override
    def wanted(self) -> tuple[str, ...]:
        return IMAGE_SUFFIXES

    @property
    @override
    def image_columns(self) -> tuple[str, ...]:
        return ("image",)

    @override
    def column_hint(self, column: str) -> str:
        if column != "label":
            return ""
        return (
            f"; the label is the name of the folder at label_level {self.label_level} (1: the first below "
            f"{self.path!r}, -1: the image's own): give another label_level, or as path the folder that holds the "
            "labels' folders"
        )

    def read(self, files: tuple[FileVersion, ...], row_bytes: int) -> Iterator[Row | BadRow]:
        """Read the pinned files in the order of their digests."""
        bucket, base = self.bucket(), f"{base_of(self.place())}/"
        ordered = sorted(files, key=lambda file: (file.sha256, file.uri))
        small = (file for file in ordered if file.bytes <= row_bytes)
        contents = (read_whole(None, file) for file in small) if bucket is None else _ahead(bucket, small)
        for file in ordered:
            if file.bytes > row_bytes:
                detail = f"{file.bytes} bytes, allowed {row_bytes}; raise limits.row_bytes, or store the image smaller"
                yield BadRow(file.uri, 1, file.bytes, "too_large", detail, "image")
                continue
            path = file.uri.removeprefix(base)
            values: dict[str, Value] = {"image": to_cell(next(contents)), "label": self._label(path), "path": path}
            yield Row(file.uri, 1, file.bytes, values)

    def _label(self, path: str) -> str | None:
        """Return the folder that is the label; None for an image that lies in too few of them."""
        folders = path.split("/")[:-1]
        index = self.label_level - 1 if self.label_level > 0 else self.label_level
        return folders[index] if -len(folders) <= index < len(folders) else None


def _ahead(bucket: Objects, files: Iterator[FileVersion]) -> Iterator[bytes]:
    """Yield the bytes of a bucket's files in order, while the next ones are fetched."""
    with ThreadPoolExecutor(_AHEAD) as pool:
        waiting: deque[Future[bytes]] = deque(pool.submit(read_whole, bucket, file) for file in islice(files, _AHEAD))
        while waiting:
            data = waiting.popleft().result()
            waiting.extend(pool.submit(read_whole, bucket, file) for file in islice(files, 1))
            yield data
