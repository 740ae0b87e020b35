"""English passages that the environment already contains: docstrings, comments and READMEs of installed libraries."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal

from pydantic import Field

from ftlib.data.listed import FileVersion, ListedFile, PinnedAlready
from ftlib.data.rows import BadRow, Row, Value
from ftlib.data.sources.base import SourceBase
from ftlib.data.sources.passages import MASK, Library, masking
from ftlib.errors import DataError


class InstalledText(SourceBase):
    """Passages labelled by library: real text, with no network and no account.

    Columns: `text`, `library`, `module`. The names, import paths and usual aliases of all listed libraries are
    replaced by one neutral word, in every passage, so that neither a name nor its absence tells the label.
    """

    kind: Literal["installed_text"] = "installed_text"
    part: Literal["docstrings", "comments", "readmes"]
    """Which passages of a library are read."""
    libraries: tuple[str, ...] = Field(min_length=1)
    """Names of installed distributions; each is a label."""
    rows_per_library: int = Field(default=250, gt=0)
    """At most so many passages of each library."""

    drop_columns: ClassVar[tuple[str, ...]] = ()
    """It has no column that one could do without."""

    def list(self) -> tuple[ListedFile, ...]:
        """List the libraries, each under its version. Raises DataError for one that is not installed."""
        libraries = [Library(name).pin() for name in self.libraries]
        return tuple(ListedFile(uri=file.uri, version=file.sha256, bytes=file.bytes) for file in libraries)

    def pin(
        self, listed: Sequence[ListedFile] | None = None, known: PinnedAlready | None = None
    ) -> tuple[FileVersion, ...]:
        """Freeze the versions: one entry per library; its installer has hashed the files, so nothing is read."""
        listed = self.list() if listed is None else listed
        return tuple(FileVersion(uri=file.uri, bytes=file.bytes, sha256=file.version) for file in listed)

    def read(self, files: tuple[FileVersion, ...], row_bytes: int) -> Iterator[Row | BadRow]:
        """Yield the passages, library by library in the order of the list."""
        libraries = [Library(name) for name in self.libraries]
        masked = masking(name for library in libraries for name in library.names())
        for library, file in zip(libraries, files, strict=True):
            if library.pin() != file:
                raise DataError(f"{file.uri} changed while it was read; let no one install it, and run again")
            parts = {"docstrings": library.docstrings, "comments": library.comments, "readmes": library.readme}
            for passage in parts[self.part](self.rows_per_library):
                text = masked.sub(MASK, passage.text)
                module = f"{library.name}:{passage.module}"
                values: dict[str, Value] = {"text": text, "library": library.name, "module": module}
                yield Row(f"{file.uri}/{passage.module}", passage.line, len(text.encode()), values)
