"""Bytes to a content-addressed snapshot of rows."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, ClassVar

from ftlib.artifacts import FileVersion, Ledger, RawDataset
from ftlib.errors import DataError
from ftlib.fingerprint import Job
from ftlib.progress import emit
from ftlib.recipe import Limits
from ftlib.row_keys import DELETED
from ftlib.row_versions import RowVersions
from ftlib.rows import BadRow, Checked, Row, check_values
from ftlib.snapshot import write_snapshot
from ftlib.sources import Source
from ftlib.workspace import Workspace

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_SIGN_OF_LIFE = 2000
"""Rows between two signs of progress."""


class IngestJob(Job):
    """What to ingest; `files` is the source's listing as it was when the run started (`source.pin()`), in its order."""

    stage: ClassVar[str] = "ingest"
    version: ClassVar[int] = 2
    runtime: ClassVar[frozenset[str]] = frozenset({"name"})

    name: str
    source: Source
    files: tuple[FileVersion, ...]
    limits: Limits
    key: str | None = None
    updated: str | None = None


def ingest(job: IngestJob, work: Workspace) -> RawDataset:
    """Snapshot the source's rows, and put what cannot be read into quarantine with its place and the reason.

    Raises DataError if a file changed since `job.files` was taken, if there are too few rows or too many bad ones.
    """
    return work.once(job, RawDataset, lambda folder: _build(job, folder))


@dataclass
class _Tally:
    """What became of the rows so far."""

    good: int = 0
    tombstones: int = 0
    replaced: dict[str, int] = field(default_factory=dict[str, int])
    """Good rows and tombstones that are not kept, by reason."""
    bad: Counter[str] = field(default_factory=Counter[str])
    first: dict[str, BadRow] = field(default_factory=dict[str, BadRow])
    """The first bad row of each reason, for the message."""

    @property
    def rows_in(self) -> int:
        return self.good + self.tombstones + self.bad.total()

    def dropped(self) -> dict[str, int]:
        """Return how many rows are not kept for each reason."""
        return dict(sorted((self.bad + Counter(self.replaced)).items()))


def _build(job: IngestJob, folder: Path) -> RawDataset:
    files = tuple(sorted(job.files, key=lambda file: (file.sha256, file.uri)))
    reading = _Reading(job, _Places({file.uri: place for place, file in enumerate(files)}))
    with (folder / "quarantine.jsonl").open("w", encoding="utf-8") as quarantine:
        snapshot = write_snapshot(folder / "rows.parquet", reading.good_rows(quarantine), reading.last_versions)
    tally = reading.tally
    emit(f"ingest {job.name}", tally.rows_in, tally.rows_in, "rows")
    _check(job, tally, snapshot.rows, folder / "quarantine.jsonl")
    return RawDataset(
        content=snapshot.content,
        columns=snapshot.columns,
        files=files,
        ledger=Ledger(rows_in=tally.rows_in, kept=snapshot.rows, dropped=tally.dropped()),
    )


class _Places(dict[str, int | None]):
    """The place of a row's file among the files: a row's uri is its file's, or that and one part more."""

    def __missing__(self, uri: str) -> int | None:
        self[uri] = self.get(uri.rpartition("/")[0])
        return self[uri]


class _Reading:
    """Rows as they are read: checked, counted, and with a key, remembered as versions of it."""

    def __init__(self, job: IngestJob, places: _Places) -> None:
        self.job = job
        self.tally = _Tally()
        self.places = places
        self.versions = RowVersions(job.key, job.updated) if job.key else None
        self.listed = _Places({file.uri: place for place, file in enumerate(job.files)})

    def last_versions(self) -> NDArray[np.bool_] | None:
        """Return which of the good rows stay, and count the others; None if all do."""
        if self.versions is None:
            return None
        kept, self.tally.replaced = self.versions.last()
        return kept

    def good_rows(self, quarantine: IO[str]) -> Iterator[Checked]:
        """Yield the rows to write; put the bad ones into quarantine."""
        job, tally = self.job, self.tally
        size, seen = sum(file.bytes for file in job.files), 0
        for found in job.source.read(job.files, job.limits.row_bytes):
            seen += found.bytes
            checked = found if isinstance(found, BadRow) else self._take(found)
            if isinstance(checked, BadRow):
                tally.bad[checked.reason] += 1
                tally.first.setdefault(checked.reason, checked)
                quarantine.write(json.dumps(asdict(checked)) + "\n")
            elif checked is not None:
                tally.good += 1
                yield checked
            if tally.rows_in % _SIGN_OF_LIFE == 0:  # the total is unknown before the end: extrapolated from the bytes
                expected = tally.rows_in * size // max(seen, 1)
                emit(f"ingest {job.name}", tally.rows_in, max(tally.rows_in + 1, expected), "rows")

    def _take(self, row: Row) -> Checked | BadRow | None:
        """Return the row as it is kept, or what is wrong with it, or None for a tombstone."""
        file, listed = self.places[row.uri], self.listed[row.uri]
        if self.versions is None:
            if DELETED in row.values:
                detail = f"{DELETED!r} deletes by key: give the dataset a key, or rename the column"
                return BadRow(row.uri, row.line, row.bytes, "reserved_column", detail, DELETED)
            return _placed(check_values(row, self.job.limits.row_bytes), file)
        if bad := self.versions.check(row):
            return bad
        if self.versions.bury(row, listed):
            self.tally.tombstones += 1
            return None
        row.values.pop(DELETED, None)
        checked = _placed(check_values(row, self.job.limits.row_bytes), file)
        if isinstance(checked, Checked):
            self.versions.add(row, listed)
        return checked


def _placed(checked: Checked | BadRow, file: int | None) -> Checked | BadRow:
    return Checked(checked.values, checked.row_id, file) if isinstance(checked, Checked) else checked


def _check(job: IngestJob, tally: _Tally, kept: int, quarantine: Path) -> None:
    share = tally.bad.total() / max(tally.rows_in, 1)
    if share > job.limits.bad_rows:
        reasons = "; ".join(
            f"{count} {reason}, first {row.uri}:{row.line} ({row.detail})"
            for reason, count in tally.bad.most_common()
            for row in [tally.first[reason]]
        )
        raise DataError(
            f"datasets.{job.name}: {tally.bad.total()} of {tally.rows_in} rows ({share:.1%}) cannot be read, allowed "
            f"{job.limits.bad_rows:.1%}: {reasons}; all are in {quarantine}: correct them or raise limits.bad_rows"
        )
    if kept < job.limits.rows:
        raise DataError(
            f"datasets.{job.name}: {kept or 'no'} rows in {len(job.files)} files, needed are at least "
            f"{job.limits.rows}; check the source's path or lower limits.rows"
        )
