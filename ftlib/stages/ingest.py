"""Bytes to a content-addressed snapshot of rows."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, ClassVar, Literal, NamedTuple

from msgspec import structs

from ftlib.data.datasets import Ledger, RawDataset
from ftlib.data.forgotten import digest_of_key, is_forgotten
from ftlib.data.images.columns import unreadable
from ftlib.data.limits import Limits, Tally, check_bad_rows, check_budgets, check_kept
from ftlib.data.listed import FileVersion
from ftlib.data.passes.exchange import Dealt, Exchange, exchange_in, part_of
from ftlib.data.passes.executor import Executor, parts_of
from ftlib.data.passes.reading import RANGE_BYTES, Unit, read_unit, units_of
from ftlib.data.personal_data import PersonalData, PersonalDataSearch, check_seen
from ftlib.data.row_keys import DELETED, keys_in
from ftlib.data.row_schema import Column, compile_schema
from ftlib.data.row_versions import RowVersions, check_moments, last_of, version_type
from ftlib.data.rows import BadRow, Checked, Passed, Row, Value, check_values
from ftlib.data.snapshot import Spool, Spooled, spool_rows, write_spooled
from ftlib.data.sources import Source
from ftlib.fingerprint import Job
from ftlib.progress import emit
from ftlib.stages.data_workers import be_driver, data_executor, run_on_cluster
from ftlib.training.compute import Compute
from ftlib.workspace import Workspace

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_SIGN_OF_LIFE = 2000
"""Rows between two signs of progress."""
_LONGEST_DETAIL = 300
"""Characters of what is said of a bad row, which may end in a value of it."""


class IngestJob(Job):
    """What to ingest; `files` is the source's listing as it was when the run started (`source.pin()`), in its order."""

    stage: ClassVar[str] = "ingest"
    version: ClassVar[int] = 3
    runtime: ClassVar[frozenset[str]] = frozenset({"name", "compute"})

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
    compute: Compute = Compute()
    """Who reads, and in how much memory."""

    introduced: ClassVar[Mapping[str, object]] = {"personal_data": PersonalData(), "excluded": ()}


def ingest(job: IngestJob, work: Workspace) -> RawDataset:
    """Snapshot the source's rows, and put what cannot be read into quarantine with its place and the reason.

    Raises DataError if a file changed since `job.files` was taken, if there are too few rows or too many bad ones.
    """
    run_on_cluster("ftlib.stages.ingest", job, job.compute, work, RawDataset)
    return work.once(job, RawDataset, lambda folder: _build(job, folder, work))


def _build(job: IngestJob, folder: Path, work: Workspace) -> RawDataset:
    with data_executor(job.compute, work) as executor:
        return build(job, folder, executor)


def build(job: IngestJob, folder: Path, executor: Executor, range_bytes: int = RANGE_BYTES) -> RawDataset:
    """Read every file once, write good rows and bad ones apart, and hold the limits against what was counted."""
    where = f"datasets.{job.name}"
    tally, spooled, read = Tally(), Spooled(), list[_Read]()
    personal = _search(job)
    with exchange_in(folder, executor.shared) as exchange:
        units = units_of(job.source, job.files, job.limits.row_bytes, executor, range_bytes)
        # Each key's versions meet in one part; how many rows there are is not known before they are read.
        parts = parts_of(executor, sum(unit.bytes for unit in units), 1) if job.key else 1
        with (folder / "quarantine.jsonl").open("wb") as quarantine:
            for one in executor.map(partial(_read, job, exchange, parts), units):
                read.append(one)
                tally.merge(one.tally)
                spooled.merge(one.spooled)
                personal.merge(one.personal)
                with exchange.path(f"bad-{one.number}").open("rb") as bad:
                    shutil.copyfileobj(bad, quarantine)
                if len(units) > 1:
                    _sign_of_life(job, tally)
                check_budgets(job.limits, tally, where)
        kept = _last_versions(job, exchange, executor, read, parts, tally)
        spools = (Spool(exchange.path(f"rows-{one.number}"), keep) for one, keep in zip(read, kept, strict=True))
        snapshot = write_spooled(folder / "rows.parquet", spools, spooled)
    emit(f"ingest {job.name}", tally.rows_in, tally.rows_in, "rows")
    check_bad_rows(job.limits, tally, where, folder / "quarantine.jsonl")
    check_kept(job.limits, snapshot.rows, len(job.files), where)
    check_seen(personal.unseen, snapshot.columns, where)
    return RawDataset(
        content=snapshot.content,
        columns=snapshot.columns,
        files=_in_order(job.files),
        ledger=Ledger(rows_in=tally.rows_in, kept=snapshot.rows, dropped=tally.dropped()),
        personal_data=personal.counts if personal.looks else None,
        name=job.name,
        key=job.key,
    )


def _in_order(files: Sequence[FileVersion]) -> tuple[FileVersion, ...]:
    return tuple(sorted(files, key=lambda file: (file.sha256, file.uri)))


def _search(job: IngestJob) -> PersonalDataSearch:
    told_apart_by = frozenset(name for name in (job.key, job.updated) if name is not None)
    return PersonalDataSearch(job.personal_data, frozenset(job.source.image_columns), told_apart_by)


class _Read(NamedTuple):
    """What one call has read; the rows themselves are in the exchange."""

    number: int
    tally: Tally
    spooled: Spooled
    versions: Dealt | None
    moments: Mapping[Literal["numbers", "dates"], Value]
    personal: PersonalDataSearch


def _read(job: IngestJob, exchange: Exchange, parts: int, unit: Unit) -> _Read:
    """Read a unit's rows, and leave the good ones, the bad ones and the versions of keys in the exchange."""
    reading = _Reading(job)
    with exchange.writing(f"bad-{unit.number}") as bad, exchange.writing(f"rows-{unit.number}") as rows:
        spooled = spool_rows(rows, reading.good_rows(unit, bad))
    versions = reading.versions
    if versions is None:
        return _Read(unit.number, reading.tally, spooled, None, {}, reading.personal)
    records = versions.records()
    dealt = exchange.deal(f"versions-{unit.number}", records, part_of(records["key"][:, 0], parts), parts)
    return _Read(unit.number, reading.tally, spooled, dealt, versions.moments, reading.personal)


def _last_versions(
    job: IngestJob, exchange: Exchange, executor: Executor, read: Sequence[_Read], parts: int, tally: Tally
) -> Sequence[NDArray[np.bool_] | None]:
    """Return which good rows of each call stay, and count the others; None where all do."""
    if not job.key:
        return [None] * len(read)
    import numpy as np

    check_moments(job.updated, {kind: value for one in reversed(read) for kind, value in one.moments.items()})
    kept = [np.ones(one.spooled.rows, np.bool_) for one in read]
    replaced: Counter[str] = Counter()
    all_versions = [one.versions for one in read if one.versions]
    for of_read, counts in executor.map(partial(_superseded, exchange, all_versions), range(parts)):
        replaced.update(counts)
        for keep, places in zip(kept, of_read, strict=True):
            keep[places] = False
    tally.replaced = dict(replaced)
    return kept


def _superseded(
    exchange: Exchange, versions: Sequence[Dealt], part: int
) -> tuple[list[NDArray[np.int64]], dict[str, int]]:
    """Return which good rows of each call are not the last of their keys, and how many there are by reason."""
    import numpy as np

    each = [exchange.part(dealt, part, version_type()) for dealt in versions]
    stays, counts = last_of(np.concatenate(each))
    ends = np.cumsum([len(records) for records in each])
    gone = [records["place"][~of_it] for records, of_it in zip(each, np.split(stays, ends[:-1]), strict=True)]
    return [places[places >= 0] for places in gone], counts


def _sign_of_life(job: IngestJob, tally: Tally) -> None:
    # The total is unknown before the end: extrapolated from the bytes.
    done, size = tally.rows_in, sum(file.bytes for file in job.files)
    expected = done * size // max(tally.bytes_in, 1)
    emit(f"ingest {job.name}", done, max(done + 1, expected), "rows")


def _file_of(row: Row, positions: Mapping[str, int]) -> int | None:
    """Return the position of a row's file: a row's URI is its file's, or that and one part more, as of passages."""
    position = positions.get(row.uri)
    return positions.get(row.uri.rpartition("/")[0]) if position is None else position


class _Reading:
    """Rows as they are read: checked, counted, and with a key, remembered as versions of it."""

    def __init__(self, job: IngestJob) -> None:
        self.job = job
        self.tally = Tally()
        self.schema = compile_schema(job.columns)
        self.images = job.source.image_columns
        self.positions = {file.uri: i for i, file in enumerate(_in_order(job.files))}
        """Each file's position in the snapshot's record."""
        self.versions = RowVersions(job.key, job.updated) if job.key else None
        self.listed = {file.uri: i for i, file in enumerate(job.files)}
        """Each file's position as it was listed: of versions of one moment that of the last listed file counts."""
        self.personal = _search(job)
        self.forgotten = frozenset(job.excluded)

    def good_rows(self, unit: Unit, quarantine: IO[bytes]) -> Iterator[Checked]:
        """Yield the rows to write; put the bad ones into quarantine."""
        tally, limits = self.tally, self.job.limits
        for row in read_unit(self.job.source, unit, limits.row_bytes):
            tally.rows_in += 1
            tally.bytes_in += row.bytes
            checked = self._allowed(row) if isinstance(row, Row) else row
            checked = self._take(checked) if isinstance(checked, Row) else checked
            if isinstance(checked, Passed):
                tally.passed[checked.reason] += 1
            elif isinstance(checked, BadRow):
                # Cut behind the redaction: half an address fits no pattern.
                checked = replace(checked, detail=self.personal.safe(checked.detail)[:_LONGEST_DETAIL])
                tally.refuse(checked)
                quarantine.write(json.dumps({**asdict(checked), **self._whose(row)}).encode() + b"\n")
            elif checked is not None:
                tally.good += 1
                yield checked
            if tally.rows_in % _SIGN_OF_LIFE == 0:
                if unit.lines is None:
                    _sign_of_life(self.job, tally)
                check_budgets(limits, tally, f"datasets.{self.job.name}")

    def _whose(self, row: Row | BadRow | Passed) -> dict[str, str]:
        """Return by what a quarantined row is found when its key is to be forgotten; nothing for one without a key."""
        if self.job.key is None or not isinstance(row, Row):
            return {}
        digest = digest_of_key(row.values.get(self.job.key))
        return {} if digest is None else {"key_digest": digest}

    def _allowed(self, row: Row) -> Row | BadRow | Passed:
        """Return the row with what the recipe redacts redacted, or why it may not be kept, before anything reads it."""
        if self.forgotten and self.job.key:
            keys = keys_in(row.values.get(self.job.key), row.values)
            if is_forgotten(keys, self.forgotten):
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


if __name__ == "__main__":
    from ftlib.stages import ingest as itself  # what travels to workers must be of a module that they can import

    be_driver(itself.IngestJob, itself.ingest)
