"""English passages that the environment already contains: docstrings and READMEs of installed libraries."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from ftlib.artifacts import FileVersion
from ftlib.config import Config
from ftlib.errors import DataError
from ftlib.passages import MASK, Library, masking
from ftlib.rows import BadRow, Row, Value


class InstalledText(Config):
    """Passages labelled by library: real text, with no network and no account.

    Columns: `text`, `library`, `module`. The names, import paths and usual aliases of all listed libraries are
    replaced by one neutral word, in every passage, so that neither a name nor its absence tells the label.
    """

    kind: Literal["installed_text"] = "installed_text"
    part: Literal["docstrings", "readmes"]
    libraries: tuple[str, ...] = Field(min_length=1)
    rows_per_library: int = Field(default=250, gt=0)

    def pin(self) -> tuple[FileVersion, ...]:
        """Freeze the versions: one entry per library. Raises DataError for one that is not installed."""
        return tuple(Library(name).pin() for name in self.libraries)

    def read(self, files: tuple[FileVersion, ...], row_bytes: int) -> Iterator[Row | BadRow]:
        """Yield the passages, library by library in the order of the list."""
        libraries = [Library(name) for name in self.libraries]
        masked = masking(name for library in libraries for name in library.names())
        for library, file in zip(libraries, files, strict=True):
            if library.pin() != file:
                raise DataError(f"{file.uri} changed while it was read; let no one install it, and run again")
            collect = library.docstrings if self.part == "docstrings" else library.readme
            for passage in collect(self.rows_per_library):
                text = masked.sub(MASK, passage.text)
                module = f"{library.name}:{passage.module}"
                values: dict[str, Value] = {"text": text, "library": library.name, "module": module}
                yield Row(f"{file.uri}/{passage.module}", passage.line, len(text.encode()), values)
