"""Bytes to a content-addressed snapshot of rows."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, ClassVar

from msgspec import structs

from ftlib.data.datasets import Ledger, RawDataset
from ftlib.data.forgotten import digest_of_key, is_forgotten
from ftlib.data.images.columns import unreadable
from ftlib.data.limits import Limits, Tally, check_bad_rows, check_budgets, check_kept
from ftlib.data.listed import FileVersion
from ftlib.data.personal_data import PersonalData, PersonalDataSearch, check_seen
from ftlib.data.row_keys import DELETED
from ftlib.data.row_schema import Column, compile_schema
from ftlib.data.row_versions import RowVersions
from ftlib.data.rows import BadRow, Checked, Passed, Row, check_values
from ftlib.data.snapshot import write_snapshot
from ftlib.data.sources import Source
from ftlib.fingerprint import Job
from ftlib.progress import emit
from ftlib.workspace import Workspace

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_SIGN_OF_LIFE = 2000
"""Rows between two signs of progress."""


class IngestJob(Job):
    """What to ingest; `files` is the source's listing as it was when the run started (`source.pin()`), in its order."""

    stage: ClassVar[str] = "ingest"
    version: ClassVar[int] = 3
    runtime: ClassVar[frozenset[str]] = frozenset({"name"})

    name: str
    source: Source
    files: tuple[FileVersion, ...]
    limits: Limits
    key: str | None = None
    updated: str | None = None
    columns: dict[str, Column] = {}
    personal_data: PersonalData = PersonalData()
    excluded: tuple[str, ...] = ()
    """Keys of rows that are to be forgotten, as `ftlib.data.forgotten` writes them, sorted."""

    introduced: ClassVar[Mapping[str, object]] = {"personal_data": PersonalData(), "excluded": ()}


def ingest(job: IngestJob, work: Workspace) -> RawDataset:
    """Snapshot the source's rows, and put what cannot be read into quarantine with its place and the reason.

    Raises DataError if a file changed since `job.files` was taken, if there are too few rows or too many bad ones.
    """
    return work.once(job, RawDataset, lambda folder: _build(job, folder))


def _build(job: IngestJob, folder: Path) -> RawDataset:
    """Read every file once, write good rows and bad ones apart, and hold the limits against what was counted."""
    files = tuple(sorted(job.files, key=lambda file: (file.sha256, file.uri)))
    reading = _Reading(job, files)
    with (folder / "quarantine.jsonl").open("w", encoding="utf-8") as quarantine:
        snapshot = write_snapshot(folder / "rows.parquet", reading.good_rows(quarantine), reading.last_versions)
    tally = reading.tally
    emit(f"ingest {job.name}", tally.rows_in, tally.rows_in, "rows")
    where = f"datasets.{job.name}"
    check_budgets(job.limits, tally, where)
    check_bad_rows(job.limits, tally, where, folder / "quarantine.jsonl")
    check_kept(job.limits, snapshot.rows, len(job.files), where)
    check_seen(reading.personal.unseen, snapshot.columns, where)
    return RawDataset(
        content=snapshot.content,
        columns=snapshot.columns,
        files=files,
        ledger=Ledger(rows_in=tally.rows_in, kept=snapshot.rows, dropped=tally.dropped()),
        personal_data=reading.personal.counts if reading.personal.looks else None,
        name=job.name,
        key=job.key,
    )


def _file_of(row: Row, positions: Mapping[str, int]) -> int | None:
    """Return the position of a row's file: a row's URI is its file's, or that and one part more, as of passages."""
    position = positions.get(row.uri)
    return positions.get(row.uri.rpartition("/")[0]) if position is None else position


class _Reading:
    """Rows as they are read: checked, counted, and with a key, remembered as versions of it."""

    def __init__(self, job: IngestJob, files: Sequence[FileVersion]) -> None:
        self.job = job
        self.tally = Tally()
        self.schema = compile_schema(job.columns)
        self.images = job.source.image_columns
        self.positions = {file.uri: i for i, file in enumerate(files)}
        """Each file's position in the snapshot's record."""
        self.versions = RowVersions(job.key, job.updated) if job.key else None
        self.listed = {file.uri: i for i, file in enumerate(job.files)}
        """Each file's position as it was listed: of versions of one moment that of the last listed file counts."""
        told_apart_by = frozenset(name for name in (job.key, job.updated) if name is not None)
        self.personal = PersonalDataSearch(job.personal_data, frozenset(self.images), told_apart_by)
        self.forgotten = frozenset(job.excluded)

    def last_versions(self) -> NDArray[np.bool_] | None:
        """Return which of the good rows stay, and count the others; None if all do."""
        if self.versions is None:
            return None
        kept, self.tally.replaced = self.versions.last()
        return kept

    def good_rows(self, quarantine: IO[str]) -> Iterator[Checked]:
        """Yield the rows to write; put the bad ones into quarantine."""
        tally = self.tally
        for row in self.job.source.read(self.job.files, self.job.limits.row_bytes):
            tally.rows_in += 1
            tally.bytes_in += row.bytes
            checked = self._allowed(row) if isinstance(row, Row) else row
            checked = self._take(checked) if isinstance(checked, Row) else checked
            if isinstance(checked, Passed):
                tally.passed[checked.reason] += 1
            elif isinstance(checked, BadRow):
                checked = replace(checked, detail=self.personal.safe(checked.detail))
                tally.refuse(checked)
                quarantine.write(json.dumps({**asdict(checked), **self._whose(row)}) + "\n")
            elif checked is not None:
                tally.good += 1
                yield checked
            if tally.rows_in % _SIGN_OF_LIFE == 0:
                self._sign_of_life()
                check_budgets(self.job.limits, tally, f"datasets.{self.job.name}")

    def _whose(self, row: Row | BadRow | Passed) -> dict[str, str]:
        """Return by what a quarantined row is found when its key is to be forgotten; nothing for one without a key."""
        if self.job.key is None or not isinstance(row, Row):
            return {}
        digest = digest_of_key(row.values.get(self.job.key))
        return {} if digest is None else {"key_digest": digest}

    def _sign_of_life(self) -> None:
        # The total is unknown before the end: extrapolated from the bytes.
        done, size = self.tally.rows_in, sum(file.bytes for file in self.job.files)
        expected = done * size // max(self.tally.bytes_in, 1)
        emit(f"ingest {self.job.name}", done, max(done + 1, expected), "rows")

    def _allowed(self, row: Row) -> Row | BadRow | Passed:
        """Return the row with what the recipe redacts redacted, or why it may not be kept, before anything reads it."""
        if self.forgotten and self.job.key and is_forgotten(row.values.get(self.job.key), self.forgotten):
            return Passed(row.bytes, "forgotten")
        if not self.personal.looks:
            return row
        values, column, kinds = self.personal.look(row.values)
        if column is not None:
            detail = f"column {column!r} holds {', '.join(kinds)}, which its personal_data refuses"
            return BadRow(row.uri, row.line, row.bytes, "personal_data", detail, column)
        return row if values is row.values else structs.replace(row, values=values)

    def _take(self, row: Row) -> Checked | BadRow | None:
        """Return the row as it is kept, or what is wrong with it, or None for a tombstone."""
        file, listed = _file_of(row, self.positions), _file_of(row, self.listed)
        if self.versions is None:
            if DELETED in row.values:
                detail = f"{DELETED!r} deletes by key: give the dataset a key, or rename the column"
                return BadRow(row.uri, row.line, row.bytes, "reserved_column", detail, DELETED)
            return self._check(row, file)
        if bad := self.versions.check(row):
            return bad
        if self.versions.bury(row, listed):
            self.tally.tombstones += 1
            return None
        row.values.pop(DELETED, None)
        checked = self._check(row, file)
        if isinstance(checked, Checked):
            self.versions.add(row, listed)
        return checked

    def _check(self, row: Row, file: int | None) -> Checked | BadRow:
        """Return a row with its identity, or why it is a bad one: its values, or an image among them that is none."""
        limits = self.job.limits
        checked = check_values(row, limits.row_bytes, self.schema, file)
        if isinstance(checked, BadRow) or not self.images:
            return checked
        return unreadable(row, self.images, checked.values, limits.image_pixels) or checked
