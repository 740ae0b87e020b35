"""Bytes to a content-addressed snapshot of rows."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, ClassVar

from ftlib.artifacts import FileVersion, Ledger, RawDataset
from ftlib.errors import DataError
from ftlib.fingerprint import Job
from ftlib.progress import emit
from ftlib.recipe import Limits
from ftlib.rows import BadRow, Checked, check_values
from ftlib.snapshot import write_snapshot
from ftlib.sources import Source
from ftlib.workspace import Workspace

_SIGN_OF_LIFE = 2000
"""Rows between two signs of progress."""


class IngestJob(Job):
    """What to ingest; `files` is the source's listing as it was when the run started (`source.pin()`)."""

    stage: ClassVar[str] = "ingest"
    version: ClassVar[int] = 1
    runtime: ClassVar[frozenset[str]] = frozenset({"name"})

    name: str
    source: Source
    files: tuple[FileVersion, ...]
    limits: Limits


def ingest(job: IngestJob, work: Workspace) -> RawDataset:
    """Snapshot the source's rows, and put what cannot be read into quarantine with its place and the reason.

    Raises DataError if a file changed since `job.files` was taken, if there are too few rows or too many bad ones.
    """
    return work.once(job, RawDataset, lambda folder: _build(job, folder))


@dataclass
class _Tally:
    """What became of the rows so far."""

    good: int = 0
    bad: Counter[str] = field(default_factory=Counter[str])
    first: dict[str, BadRow] = field(default_factory=dict[str, BadRow])
    """The first bad row of each reason, for the message."""

    @property
    def rows_in(self) -> int:
        return self.good + self.bad.total()


def _build(job: IngestJob, folder: Path) -> RawDataset:
    tally = _Tally()
    with (folder / "quarantine.jsonl").open("w", encoding="utf-8") as quarantine:
        snapshot = write_snapshot(folder / "rows.parquet", _good_rows(job, quarantine, tally))
    emit(f"ingest {job.name}", tally.rows_in, tally.rows_in, "rows")
    _check(job, tally, folder / "quarantine.jsonl")
    return RawDataset(
        content=snapshot.content,
        columns=snapshot.columns,
        files=job.files,
        ledger=Ledger(rows_in=tally.rows_in, kept=tally.good, dropped=dict(sorted(tally.bad.items()))),
    )


def _good_rows(job: IngestJob, quarantine: IO[str], tally: _Tally) -> Iterator[Checked]:
    size, seen = sum(file.bytes for file in job.files), 0
    for found in job.source.read(job.files, job.limits.row_bytes):
        seen += found.bytes
        checked = found if isinstance(found, BadRow) else check_values(found, job.limits.row_bytes)
        if isinstance(checked, BadRow):
            tally.bad[checked.reason] += 1
            tally.first.setdefault(checked.reason, checked)
            quarantine.write(json.dumps(asdict(checked)) + "\n")
        else:
            tally.good += 1
            yield checked
        if tally.rows_in % _SIGN_OF_LIFE == 0:  # the total is unknown before the end: extrapolated from the bytes
            expected = tally.rows_in * size // max(seen, 1)
            emit(f"ingest {job.name}", tally.rows_in, max(tally.rows_in + 1, expected), "rows")


def _check(job: IngestJob, tally: _Tally, quarantine: Path) -> None:
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
    if tally.good < job.limits.rows:
        raise DataError(
            f"datasets.{job.name}: {tally.good or 'no'} rows in {len(job.files)} files, needed are at least "
            f"{job.limits.rows}; check the source's path or lower limits.rows"
        )
