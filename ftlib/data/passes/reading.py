"""What of a source is read apart: its files, and of large files of lines ranges; in the order in which one would read.

What is read apart depends on the files alone, so that how many read decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

from ftlib.data.listed import FileVersion
from ftlib.data.passes.executor import Executor
from ftlib.data.row_files.ranges import LineRange, read_lines, survey_lines
from ftlib.data.rows import BadRow, Passed, Row
from ftlib.data.sources import Source

RANGE_BYTES = 16 << 20
"""Of lines that are read apart; a row that is longer makes its range longer."""


class Unit(NamedTuple):
    """Rows that one call reads."""

    number: int
    files: tuple[FileVersion, ...]
    lines: LineRange | None = None
    """The lines of its one file that are meant, if not all are."""

    @property
    def bytes(self) -> int:
        """Return the bytes of its files that are meant."""
        return self.lines.stop - self.lines.start if self.lines else sum(file.bytes for file in self.files)


def units_of(
    source: Source, files: tuple[FileVersion, ...], row_bytes: int, executor: Executor, least: int = RANGE_BYTES
) -> list[Unit]:
    """Cut a source's files into what is read apart; for this process alone it is all one.

    Raises DataError for a file that changed since it was pinned.
    """
    apart = source.apart(files) if executor.workers else ()
    if not apart:
        return [Unit(0, files)]
    cut = [source.cuts(file) and file.bytes > least for file in apart]
    large = [file for file, cuts in zip(apart, cut, strict=True) if cuts]
    surveyed = iter(executor.map(partial(survey_lines, row_bytes=row_bytes, least=least), large))
    units: list[Unit] = []
    for file, cuts in zip(apart, cut, strict=True):
        ranges: Sequence[LineRange | None] = next(surveyed) if cuts else [None]
        units += [Unit(len(units) + i, (file,), lines) for i, lines in enumerate(ranges)]
    return units


def read_unit(source: Source, unit: Unit, row_bytes: int) -> Iterator[Row | BadRow | Passed]:
    """Read a unit's rows. Raises DataError for a file that changed since it was pinned."""
    if unit.lines is None:
        yield from source.read(unit.files, row_bytes)
    else:
        yield from read_lines(unit.lines, row_bytes, frozenset(getattr(source, "drop_columns", ())))
