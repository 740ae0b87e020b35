"""The recipe's `monitor`: where live answers are logged, what counts as drifted or worse, and what is done then."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ftlib.answer_log.place import AnswerLog
from ftlib.config import Config, Fraction
from ftlib.fingerprint import Identified
from ftlib.retraining.drift import DriftLimits

LIVE_ROWS = 1000
"""Answers below which nothing is said of drift: with so many on both sides and no drift, a distance is beyond 0.1
in one look out of 10,000."""


class _Rule(Config):
    min_labels: int = Field(default=100, ge=1)
    """With fewer in a window nothing is said of its quality."""
    false_alarms: float = Field(default=0.01, gt=0.0, lt=0.5)
    """The probability that a version which is good enough is ever called worse, however often anybody looks."""


class OfLabels(_Rule):
    """Labels that come later, against the accuracy that was measured at publishing."""

    kind: Literal["labels"] = "labels"
    evaluation: str | None = None
    """Whose accuracy; by default the first that reads the dataset which the published model answers."""
    margin: Fraction = 0.02
    """How much lower it may be."""


class OfThumbs(_Rule):
    """The share of answers that were found good, against a share that is stated here."""

    kind: Literal["thumbs"] = "thumbs"
    at_least: Fraction
    """The share that is good enough."""


QualityRule = Annotated[OfLabels | OfThumbs, Field(discriminator="kind")]


class Monitor(Identified):
    """Which log is watched, and what its answers may come to. See docs/monitor.md.

    It says when, not what: no stage's output depends on it, so it is never part of a fingerprint.
    """

    log: AnswerLog | None = None
    """The log of what is answered live; null: `reglage monitor --log` says it."""
    window_days: float = Field(default=7.0, gt=0.0, le=366.0)
    """How long a window is. Drift is looked for in the last one; quality is told of each since the promotion."""
    windows: int = Field(default=8, ge=1, le=60)
    """How many of the last windows are read."""
    drift: DriftLimits = DriftLimits(rows=LIVE_ROWS)
    """From where on what is asked or answered has drifted."""
    quality: QualityRule = OfLabels()
    """When the answers are worse than they were at publishing."""
    rollback: Literal["never", "on_quality"] = "never"
    """on_quality: once the answers are worse, the alias means again the version before, unless a person or a newer
    promotion has moved it since."""

    def digest(self) -> str:
        """Return the same for every value."""
        return ""
