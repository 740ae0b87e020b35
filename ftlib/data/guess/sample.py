"""A bounded look at files: their first rows, however large they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from ftlib.data.limits import Limits
from ftlib.data.listed import FileVersion
from ftlib.data.row_files import pin_file, read_file
from ftlib.data.rows import Row, Value
from ftlib.errors import DataError
from ftlib.wording import counted, some

ROWS, FILES = 2_000, 40
"""At most so many rows, of at most so many files, are looked at."""
BYTES = 16_000_000
"""So much of a file is read at most; one that is larger is not hashed, since that would read it whole."""
LEAST = 12
"""Rows that are split three ways, with two for each at least, and some to learn from."""


class Sample(NamedTuple):
    """What was looked at."""

    rows: list[dict[str, Value]]
    bad: int
    """Rows that could not be read."""
    detail: str
    """What is wrong with the first of them."""
    whole: bool
    """Whether these are all the rows there are."""
    apart: str = ""
    """Why the files are no one table: what a format reads must be in all of them. Empty where they are."""

    @property
    def described(self) -> str:
        """Say how many rows these are, and whether there are more."""
        bad = f", {counted(self.bad, 'row')} unreadable ({self.detail})" if self.bad else ""
        return f"{counted(len(self.rows), 'row')}{'' if self.whole else ' at the beginning'}{bad}"


def sample(files: Sequence[Path], *, table: bool = True) -> Sample:
    """Look at files' first rows.

    Raises DataError if there are too few, and for files that are no one `table`, where they are to be one.
    """
    looked = files[:FILES]
    rows: list[dict[str, Value]] = []
    bad, detail, apart, whole = 0, "", "", len(looked) == len(files)
    for file in looked:
        of_file = list(_beginning(file, -(-ROWS // len(looked))))
        read = [row for row in of_file[:-1] if isinstance(row, dict)]
        wrong = [row for row in of_file[:-1] if isinstance(row, str)]
        apart = apart or _apart(file, read, files[0], rows)
        bad, detail, whole = bad + len(wrong), detail or next(iter(wrong), ""), whole and bool(of_file[-1])
        rows += read
    if apart and table:
        raise DataError(apart)
    if len(rows) < LEAST:
        broken = f"; {counted(bad, 'row')} cannot be read: {detail}" if bad else ""
        names = some([str(file) for file in files])
        raise DataError(
            f"{names}: {counted(len(rows), 'row')}, at least {LEAST} are needed: some to train on, some to choose by, "
            f"some to test{broken}; give more rows"
        )
    return Sample(rows, bad, detail, whole, apart)


def _beginning(path: Path, most: int) -> Iterator[dict[str, Value] | str | bool]:
    """Yield a file's first rows, what is wrong with those that cannot be read, and last whether that was all."""
    limit = Limits().row_bytes
    try:
        size = path.stat().st_size
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; give files that can be read") from error
    large = size > BYTES
    pinned = FileVersion(uri=str(path), bytes=size, sha256="") if large else pin_file(path)
    left = BYTES
    rows = read_file(pinned, limit)
    for row in islice(rows, most):
        yield dict(row.values) if isinstance(row, Row) else f"{row.uri}, row {row.line}: {row.detail or row.reason}"
        left -= row.bytes
        if left < 0:
            break
    else:
        yield not large and next(rows, None) is None
        return
    yield False


def _apart(file: Path, rows: list[dict[str, Value]], first: Path, before: list[dict[str, Value]]) -> str:
    """Say why a file's rows are no more of the table that the files before begin; nothing where they are."""
    if not rows or not before:
        return ""
    here, there = ({name for row in some_rows[:100] for name in row} for some_rows in (rows, before))
    if here & there and len(here & there) >= max(len(here), len(there)) / 2:
        return ""
    return (
        f"{file} has the columns {some(sorted(here))}, and {first} has {some(sorted(there))}: these are no rows of "
        "one kind; call init for each of them"
    )
