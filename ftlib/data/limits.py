"""How much may go wrong with the rows: counts, and the limits that end a run with one line.

A gate that stops a run names the count, what is allowed, the first row of each reason, and the limit to raise.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from ftlib.config import Config, Fraction
from ftlib.data.images.decoding import PIXELS
from ftlib.data.rows import BadRow
from ftlib.errors import DataError
from ftlib.wording import counted, some

_ASKED_FOR = frozenset(("missing_value", "wrong_type", "not_allowed"))
"""Reasons whose column is one that the recipe names."""


@dataclass
class Tally:
    """What became of the rows so far."""

    rows_in: int = 0
    bytes_in: int = 0
    good: int = 0
    tombstones: int = 0
    replaced: dict[str, int] = field(default_factory=dict[str, int])
    """Good rows and tombstones that are not kept, by reason."""
    passed: Counter[str] = field(default_factory=Counter[str])
    """Rows that give nothing of what their source was asked for, by reason."""
    bad: Counter[str] = field(default_factory=Counter[str])
    first: dict[str, BadRow] = field(default_factory=dict[str, BadRow])
    """The first bad row of each reason, for the message."""
    blamed: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    """Bad rows by reason and column."""

    def refuse(self, row: BadRow) -> None:
        """Count a bad row."""
        self.bad[row.reason] += 1
        self.first.setdefault(row.reason, row)
        if row.column is not None:
            self.blamed[row.reason, row.column] += 1

    def merge(self, other: Tally) -> None:
        """Take in what became of rows that were read after these."""
        self.rows_in += other.rows_in
        self.bytes_in += other.bytes_in
        self.good += other.good
        self.tombstones += other.tombstones
        self.passed.update(other.passed)
        self.bad.update(other.bad)
        self.first = {**other.first, **self.first}
        self.blamed.update(other.blamed)

    @property
    def lost(self) -> int:
        """Return how many bad rows there are; a header that is repeated between rows is none."""
        return self.bad.total() - self.bad["repeated_header"]

    def dropped(self) -> dict[str, int]:
        """Return how many rows are not kept for each reason."""
        return dict(sorted((self.bad + self.passed + Counter(self.replaced)).items()))


def check_budgets(limits: Limits, tally: Tally, where: str) -> None:
    """Raise DataError, while the rows are read, for more of them than allowed: the rest would not change that."""
    if tally.rows_in > limits.max_rows:
        raise DataError(f"{where}: more than {limits.max_rows} rows; take some files out or raise limits.max_rows")
    if tally.bytes_in > limits.max_bytes:
        raise DataError(
            f"{where}: more than {limits.max_bytes} bytes of rows; take some files out or raise limits.max_bytes"
        )
    if limits.bad_row_count is not None and tally.lost > limits.bad_row_count:
        raise DataError(
            f"{where}: {tally.lost} of the first {tally.rows_in} rows cannot be read, allowed {limits.bad_row_count}: "
            f"{_what_is_wrong(tally)}; {_remedy(tally, 'limits.bad_row_count')}"
        )


def check_bad_rows(limits: Limits, tally: Tally, where: str, quarantine: Path) -> None:
    """Raise DataError if the share of bad rows is larger than allowed."""
    share = tally.lost / max(tally.rows_in, 1)
    if share > limits.bad_rows:
        raise DataError(
            f"{where}: {tally.lost} of {tally.rows_in} rows ({share:.1%}) cannot be read, allowed "
            f"{limits.bad_rows:.1%}: {_what_is_wrong(tally)}; all are in {quarantine}: "
            f"{_remedy(tally, 'limits.bad_rows')}"
        )


def _remedy(tally: Tally, limit: str) -> str:
    """Say what to do; a higher limit is no remedy where it would lose just the rows of some kind, or most of them."""
    if tally.bad["invalid_utf8"] * 2 > tally.lost:
        return "write the text as UTF-8 (a higher limit would lose just the rows with such characters)"
    return "correct the rows" if tally.lost * 2 > tally.rows_in else f"correct the rows or raise {limit}"


def check_kept(limits: Limits, kept: int, files: int, where: str) -> None:
    """Raise DataError for too few rows."""
    if kept < limits.rows:
        raise DataError(
            f"{where}: {counted(kept, 'row')} in {counted(files, 'file')}, needed are at least {limits.rows}; "
            "check the source's path or lower limits.rows"
        )


def _what_is_wrong(tally: Tally) -> str:
    """Return one clause for each reason; a column that is wrong in every row is schema drift, and said alone."""
    for (reason, column), count in tally.blamed.items():
        if count == tally.rows_in:
            ask = f" (is {column!r} its name?)" if reason in _ASKED_FOR else ""
            return f"{reason} in 100 % of the rows: {tally.first[reason].detail}{ask}"
    return "; ".join(
        f"{count} {reason}, first {row.uri}:{row.line} ({row.detail})"
        for reason, count in tally.bad.most_common()
        if reason != "repeated_header"
        for row in [tally.first[reason]]
    )


def check_duplicates(limits: Limits, dropped: Mapping[str, int], rows: int, where: str) -> None:
    """Raise DataError if the share of rows that say what others say is larger than allowed."""
    copies = sum(dropped.get(reason, 0) for reason in ("duplicate", "near_duplicate"))
    share = copies / max(rows, 1)
    if share > limits.duplicate_rows:
        raise DataError(
            f"{where}: {copies} of {rows} rows ({share:.1%}) are copies of others, allowed "
            f"{limits.duplicate_rows:.1%}; was a file exported twice? If it is meant, raise limits.duplicate_rows"
        )


def check_labels_of(limits: Limits, labels: Mapping[str, int], where: str) -> None:
    """Raise DataError for a label with fewer training rows than asked for."""
    few = {label: rows for label, rows in labels.items() if rows < limits.rows_per_label}
    if few:
        counts = [f"{label!r} has {rows}" for label, rows in sorted(few.items(), key=lambda f: (f[1], f[0]))]
        raise DataError(
            f"{where}: labels with fewer than {limits.rows_per_label} training rows: {some(counts)}; "
            "add rows, map these labels to others or lower limits.rows_per_label"
        )


class Limits(Config):
    """How much may go wrong with the rows before the run fails."""

    bad_rows: Fraction = 0.01
    """Share of rows that may be quarantined at ingestion."""
    bad_row_count: int | None = Field(default=None, ge=0)
    """The same as a number: reading stops as soon as there are more."""
    dropped_rows: Fraction = 0.5
    """Share of ingested rows that cleaning, de-duplication and the leakage check may drop."""
    row_bytes: int = Field(default=1_000_000, gt=0)
    """A larger row is quarantined."""
    image_pixels: int = Field(default=PIXELS, gt=0)
    """A row with an image of more pixels is quarantined, before memory is taken for them."""
    rows: int = Field(default=10, gt=0)
    """Fewer rows than this fail."""
    max_rows: int = Field(default=100_000_000, gt=0)
    """More rows than this fail, as soon as they are read."""
    max_bytes: int = Field(default=1_000_000_000_000, gt=0)
    """More bytes of rows than this fail: unpacked ones, but for parquet the file's."""
    rows_per_label: int = Field(default=1, ge=1)
    """A label with fewer training rows than this fails."""
    duplicate_rows: Fraction = 1.0
    """Share of ingested rows that may be copies of others, near ones too."""
    vanished: Fraction = 0.2
    """Share of the files known from before that may be gone at a retraining: 0 for none, 1 for any number."""

    introduced: ClassVar[Mapping[str, object]] = {"image_pixels": 50_000_000}
