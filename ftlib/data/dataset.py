"""The recipe's `datasets`: rows, and how they become batches."""

from __future__ import annotations

from ftlib.config import Config
from ftlib.data.cleaning import Cleaning
from ftlib.data.formats import Format
from ftlib.data.limits import Limits
from ftlib.data.row_schema import Column
from ftlib.data.sources import Source
from ftlib.data.splitting import SplitPolicy


class Dataset(Config):
    """Rows, and how they become batches."""

    source: Source
    """Where the rows come from."""
    format: Format
    """Which columns are read, and how a row becomes tokens and targets."""
    key: str | None = None
    """The column that says which row it is, whatever its text; of each key the last version counts."""
    updated: str | None = None
    """The column that says when a row's version was made: numbers, or ISO 8601 dates."""
    columns: dict[str, Column] = {}
    """What these columns must hold; rows that differ are quarantined. Others are kept as they are."""
    limits: Limits = Limits()
    """How many rows may be bad, dropped or missing before the run ends."""
    cleaning: Cleaning = Cleaning()
    """What happens to texts before they are tokenised."""
    split: SplitPolicy = SplitPolicy()
    """Which rows train, which choose, and which are only reported on."""
