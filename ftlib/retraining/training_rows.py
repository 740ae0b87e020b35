"""Which rows of the training split a retraining uses: all, the newest, or fresh ones with a replay of old ones."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from ftlib.config import Config
from ftlib.data.datasets import RawDataset
from ftlib.data.row_keys import as_date
from ftlib.data.rows import need_column
from ftlib.data.snapshot import read_column, read_origins
from ftlib.errors import DataError
from ftlib.retraining.policy import AllRows, Replay, TrainingRows, Window

if TYPE_CHECKING:
    from ftlib.data.passes.placing import Placement

OUTSIDE_WINDOW = "outside_window"
NOT_REPLAYED = "not_replayed"


class UsedRows(Config):
    """A rule with what it needs to know."""

    rows: TrainingRows
    fresh: tuple[str, ...] = ()
    """The sha256 of the files that were not there before; only `replay` asks."""

    @property
    def replayed(self) -> float | None:
        """Return which share of the old rows is replayed, where the rule says one."""
        return self.rows.share if isinstance(self.rows, Replay) else None


def leave_out(placement: Placement, raw: RawDataset, used: UsedRows, where: str) -> None:
    """Take out of train the rows that the rule does not use. Held-out rows stay. Costs eight bytes a row meanwhile.

    Of `replay` the placement must say which rows are beyond its share. Raises DataError if a window's column is absent,
    holds no dates, or leaves nothing.
    """
    rule = used.rows
    if isinstance(rule, AllRows):
        return
    if isinstance(rule, Window):
        _outside(placement, raw, rule, where)
    else:
        _not_replayed(placement, raw, {*used.fresh})


def _outside(placement: Placement, raw: RawDataset, rule: Window, where: str) -> None:
    import numpy as np

    need_column(rule.column, raw.columns, f"{where}: retrain.rows")
    trains = placement.trains()
    moments = np.full(placement.rows, np.nan)
    for i, (_, value) in enumerate(read_column(raw.path / "rows.parquet", rule.column)):
        if trains[i] and (moment := as_date(value)) is not None:
            moments[i] = moment
    if np.isnan(moments).all():
        raise DataError(
            f"{where}: retrain.rows: column {rule.column!r} has no ISO 8601 date in a training row; name another column"
        )
    first = float(np.nanmax(moments)) - timedelta(days=rule.days).total_seconds()
    placement.drop(trains & ~(moments >= first), OUTSIDE_WINDOW)


def _not_replayed(placement: Placement, raw: RawDataset, fresh: set[str]) -> None:
    import numpy as np

    fresh_files = [number for number, file in enumerate(raw.files) if file.sha256 in fresh]
    files = (-1 if file is None else file for _, file in read_origins(raw.path / "rows.parquet"))
    old = ~np.isin(np.fromiter(files, np.int32, placement.rows), fresh_files)
    assert placement.beyond is not None
    placement.drop(placement.trains() & old & placement.beyond, NOT_REPLAYED)
