"""The recipe's `datasets`: rows, and how they become batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Self

from pydantic import model_validator

from ftlib.config import Config, Name
from ftlib.data.cleaning import Cleaning
from ftlib.data.formats import Format
from ftlib.data.limits import Limits
from ftlib.data.personal_data import PersonalData
from ftlib.data.row_schema import Column
from ftlib.data.sources import Source
from ftlib.data.splitting import SplitPolicy
from ftlib.data.supervision import Supervision

_LEAST_ALIKE = 0.85
"""Of the bits of two images. Of a hundred thousand images, some agree in three quarters by chance."""


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
    personal_data: PersonalData = PersonalData()
    """Which columns' personal data is counted, refused or redacted; by default that of all is counted."""
    limits: Limits = Limits()
    """How many rows may be bad, dropped or missing before the run ends."""
    cleaning: Cleaning = Cleaning()
    """What happens to texts before they are tokenised."""
    split: SplitPolicy = SplitPolicy()
    """Which rows train, which choose, and which are only reported on."""
    supervision: Supervision = Supervision()
    """What of a language model's training rows ends the run."""
    task: Name | None = None
    """Which task its rows are of, where one model learns several: each has a head of its own over one body."""

    introduced: ClassVar[Mapping[str, object]] = {
        "supervision": Supervision(),
        "task": None,
        "personal_data": PersonalData(),
    }

    @model_validator(mode="after")
    def _near_images(self) -> Self:
        near = self.cleaning.near_duplicates
        if self.format.shows_images and near is not None and near < _LEAST_ALIKE:
            raise ValueError(
                f"cleaning.near_duplicates: {near:g}, of images allowed are {_LEAST_ALIKE:g} to 1: it is the share of "
                "64 bits that agrees, and of two images that have nothing in common half of them do"
            )
        return self
