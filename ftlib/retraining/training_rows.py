"""Which rows of the training split a retraining uses: all, the newest, or fresh ones with a replay of old ones."""

from __future__ import annotations

from datetime import timedelta

from ftlib.config import Config
from ftlib.data.assignment import Assignment
from ftlib.data.datasets import RawDataset
from ftlib.data.row_keys import as_date
from ftlib.data.rows import need_column
from ftlib.data.snapshot import read_origins, read_snapshot
from ftlib.data.splitting import share
from ftlib.errors import DataError
from ftlib.retraining.policy import AllRows, Replay, TrainingRows, Window

OUTSIDE_WINDOW = "outside_window"
NOT_REPLAYED = "not_replayed"


class UsedRows(Config):
    """A rule with what it needs to know."""

    rows: TrainingRows
    fresh: tuple[str, ...] = ()
    """The sha256 of the files that were not there before; only `replay` asks."""


def leave_out(assignment: Assignment, raw: RawDataset, used: UsedRows, where: str) -> None:
    """Take out of train the rows that the rule does not use. Held-out rows stay.

    Raises DataError if a window's column is absent, holds no dates, or leaves nothing.
    """
    rule = used.rows
    if isinstance(rule, AllRows):
        return
    if isinstance(rule, Window):
        _outside(assignment, raw, rule, where)
    else:
        _not_replayed(assignment, raw, rule, {*used.fresh})


def _outside(assignment: Assignment, raw: RawDataset, rule: Window, where: str) -> None:
    need_column(rule.column, raw.columns, f"{where}: retrain.rows")
    rows = zip(assignment.places, read_snapshot(raw.path / "rows.parquet"), strict=True)
    moments = [as_date(values.get(rule.column)) if assigned == "train" else None for assigned, (_, values) in rows]
    dated = [moment for moment in moments if moment is not None]
    if not dated:
        raise DataError(
            f"{where}: retrain.rows: column {rule.column!r} has no ISO 8601 date in a training row; name another column"
        )
    first = max(dated) - timedelta(days=rule.days).total_seconds()
    for i, (assigned, moment) in enumerate(zip(assignment.places, moments, strict=True)):
        if assigned == "train" and (moment is None or moment < first):
            assignment.places[i] = OUTSIDE_WINDOW


def _not_replayed(assignment: Assignment, raw: RawDataset, rule: Replay, fresh: set[str]) -> None:
    fresh_files = {number for number, file in enumerate(raw.files) if file.sha256 in fresh}
    origins = read_origins(raw.path / "rows.parquet")
    for i, (_, file) in enumerate(origins):
        old = assignment.places[i] == "train" and file not in fresh_files
        if old and share("replay", assignment.keys[i]) >= rule.share:
            assignment.places[i] = NOT_REPLAYED
