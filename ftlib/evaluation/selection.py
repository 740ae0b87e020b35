"""The recipe's `select`, and the record of a choice."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ftlib.artifacts import Artifact
from ftlib.config import Config, Fraction
from ftlib.fingerprint import digest
from ftlib.merging.candidates import Candidate


class Gate(Config):
    """A threshold a version must reach on the report split, or it is not published."""

    metric: str
    """evaluation/metric, for example shifted/accuracy."""
    at_least: float | None = None
    """The least that is published, in the metric's unit; give this or `at_most`."""
    at_most: float | None = None
    """The most that is published, in the metric's unit; give this or `at_least`."""


class Select(Config):
    """Which candidate is published, by what was measured on the selection split.

    best                the best `by`
    constrained         the best `by` among candidates whose `subject_to` is not worse than the better end's by more
                        than `max_drop`: the paired upper bound of the loss, at the evaluation's confidence
    knee                where the trade turns: furthest beyond the straight line from the best `by` to the best
                        `subject_to`, each in units of what lies between those two
    one_standard_error  the candidate nearest to theta0 whose `by` is within one paired standard error of the best
    fixed               the one at `alpha`
    """

    rule: Literal["best", "constrained", "knee", "one_standard_error", "fixed"] = "best"
    """How a candidate is chosen; `Select` says what each word means."""
    by: str
    """evaluation/metric, for example shifted/accuracy."""
    plus: dict[str, float] = {}
    """More metrics that `by` is summed with, each times its weight; one whose lower is better counts negatively."""
    subject_to: str | None = None
    """evaluation/metric; only for `constrained` and `knee`."""
    max_drop: float = Field(default=0.01, ge=0.0)
    """The largest loss of `subject_to`, in its own unit; only for `constrained`."""
    alpha: Fraction | None = None
    """Only for `fixed`; 0.5 is what the WiSE-FT paper advises where nothing can be measured."""
    gates: tuple[Gate, ...] = ()
    """What the chosen candidate must reach to be published; all of them."""


class Selection(Artifact):
    """Which candidate a stated rule chose on the selection split, and why."""

    chosen: Candidate
    rule: str
    """The rule in words, with its numbers."""
    why: str
    """How the rule came to this choice, and whether mixing beats both ends significantly."""
    beats_both_ends: tuple[str, ...] = ()
    """The candidates that do, by what the rule scores."""

    def digest(self) -> str:
        """Return the digest of the choice."""
        return digest([self.chosen.digest(), self.rule])
