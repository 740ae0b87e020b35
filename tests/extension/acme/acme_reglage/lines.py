"""Rows as the team's old tool writes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Literal

from ftlib.data.listed import FileVersion, ListedFile, PinnedAlready
from ftlib.data.rows import BadRow, Row
from ftlib.data.sources.base import SourceBase
from ftlib.data.sources.listing import list_file, pin_listed
from ftlib.errors import DataError


class Lines(SourceBase):
    """A file with a row on each line: the label, a colon, the text. Columns: `text`, `label`."""

    kind: Literal["acme_lines"] = "acme_lines"
    path: str
    """The file."""

    drop_columns: ClassVar[tuple[str, ...]] = ()
    hub_name: ClassVar[str | None] = None

    def list(self) -> tuple[ListedFile, ...]:
        """List the file. Raises DataError if it is not there."""
        found = list_file(Path(self.path))
        if found is None:
            raise DataError(f"{self.path}: no such file; correct the source's path")
        return (found,)

    def pin(
        self, listed: Sequence[ListedFile] | None = None, known: PinnedAlready | None = None
    ) -> tuple[FileVersion, ...]:
        """Freeze a listing, by default that of now."""
        return tuple(pin_listed(file, known) for file in (self.list() if listed is None else listed))

    def read(self, files: tuple[FileVersion, ...], row_bytes: int) -> Iterator[Row | BadRow]:
        """Read the rows."""
        for file in files:
            for number, line in enumerate(Path(file.uri).read_text().splitlines(), 1):
                label, _, text = line.partition(":")
                yield Row(file.uri, number, len(line.encode()), {"label": label, "text": text})
