"""Where a log of answers is, and how its columns are called."""

from __future__ import annotations

from pydantic import Field, field_validator

from ftlib.answer_log.record import LateLabel, LiveAnswer
from ftlib.config import Config
from ftlib.storage import Place

MEASURES = ("length", "tokens", "unknown")
"""What a foreign log may have columns for, beside an answer's own fields."""
_OF_ANSWERS = (*LiveAnswer.model_fields, *MEASURES)
_OF_LABELS = tuple(LateLabel.model_fields)


class AnswerLog(Config):
    """A log that `reglage serve` wrote, or another server's by its columns' names."""

    place: str = Field(min_length=1)
    """A folder or s3://bucket/prefix: answers are files below its `answers/`, what was said of them below `labels/`."""
    answers: str | None = None
    """Another place of the answers; null: below `place`."""
    labels: str | None = None
    """Another place of labels and thumbs; null: below `place`."""
    endpoint_url: str | None = None
    """The S3 server, if it is not AWS."""
    columns: dict[str, str] = {}
    """What answers' fields are called in a foreign log, as {request: id, label: pred}; others by their own names."""
    label_columns: dict[str, str] = {}
    """The same of labels and thumbs. Where `answers` and `labels` are one place, a late label is read of the column
    that is named here, and of no other: `label` is the answer's."""

    @field_validator("columns")
    @classmethod
    def _answer_fields(cls, columns: dict[str, str]) -> dict[str, str]:
        return _known(columns, _OF_ANSWERS)

    @field_validator("label_columns")
    @classmethod
    def _label_fields(cls, columns: dict[str, str]) -> dict[str, str]:
        return _known(columns, _OF_LABELS)

    @property
    def answers_at(self) -> Place:
        """Return where the answers are."""
        return Place.parse(self.answers or f"{self.place.rstrip('/')}/answers/", self.endpoint_url)

    @property
    def labels_at(self) -> Place:
        """Return where labels and thumbs are."""
        return Place.parse(self.labels or f"{self.place.rstrip('/')}/labels/", self.endpoint_url)

    @property
    def one_place(self) -> bool:
        """Say whether answers and what was said of them lie in the same files, as in a feedback log."""
        return self.answers_at.uri.rstrip("/") == self.labels_at.uri.rstrip("/")


def _known(columns: dict[str, str], fields: tuple[str, ...]) -> dict[str, str]:
    if unknown := sorted({*columns} - {*fields}):
        raise ValueError(f"{', '.join(unknown)}: no such field; there are {', '.join(fields)}")
    return columns
