"""The recipe's `select`, and the record of a choice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from ftlib.artifacts import Artifact
from ftlib.config import Config, Fraction
from ftlib.evaluation.measured import Estimate, KLToStart
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
    within              the best `by` among candidates whose answers moved from the start's by a `divergence` of at most
                        `at_most`: its upper bound, at the evaluation's confidence
    dawin               the one nearest to the mean over rows of e^-H1 / (e^-H0 + e^-H1), where H0 and H1 are the
                        entropies of theta0's and theta1's answers (Oh et al. 2025, arXiv 2410.03782); no label is read
    fixed               the one at `alpha`
    """

    introduced: ClassVar[Mapping[str, object]] = {"smoothed": False, "divergence": None, "at_most": None}

    rule: Literal["best", "constrained", "knee", "one_standard_error", "within", "dawin", "fixed"] = "best"
    """How a candidate is chosen; `Select` says what each word means."""
    by: str
    """evaluation/metric, for example shifted/accuracy."""
    plus: dict[str, float] = {}
    """More metrics that `by` is summed with, each times its weight; one whose lower is better counts negatively."""
    subject_to: str | None = None
    """evaluation/metric; only for `constrained` and `knee`."""
    max_drop: float = Field(default=0.01, ge=0.0)
    """The largest loss of `subject_to`, in its own unit; only for `constrained`."""
    smoothed: bool = False
    """Go by the smooth curve of `by` along alpha instead of by each point; only for `best`, `constrained`, `within`."""
    divergence: str | None = None
    """evaluation/kl_to_start; only for `within`."""
    at_most: float | None = Field(default=None, gt=0.0)
    """The largest divergence, in nats: per row of a classifier, per token of a language model; only for `within`."""
    alpha: Fraction | None = None
    """Only for `fixed`; 0.5 is what the WiSE-FT paper advises where nothing can be measured."""
    gates: tuple[Gate, ...] = ()
    """What the chosen candidate must reach to be published; all of them."""


UNMEASURED = frozenset({"fixed", "dawin"})
"""Rules that decide by no metric, so that `by` may be one that the rows do not define."""
SMOOTHING = frozenset({"best", "constrained", "within"})
"""Rules that take a best, which may be one on the curve."""


class CurvePoint(Config):
    """What is expected of a rule's score somewhere along alpha."""

    alpha: float
    expected: Estimate
    """In the metric's own unit; of a sum, the merits."""


class Selection(Artifact):
    """Which candidate a stated rule chose on the selection split, and why."""

    chosen: Candidate
    rule: str
    """The rule in words, with its numbers."""
    why: str
    """How the rule came to this choice, and whether mixing beats both ends significantly."""
    beats_both_ends: tuple[str, ...] = ()
    """The candidates that do, by what the rule scores."""
    expected: tuple[Estimate, ...] = ()
    """What the curve says of every candidate, if the rule went by a curve."""
    curve: tuple[CurvePoint, ...] = ()
    """The same from theta0 to theta1, for the plot."""
    kl: KLToStart | None = None
    """How far every candidate moved, if the rule asked."""

    def digest(self) -> str:
        """Return the digest of the choice."""
        return digest([self.chosen.digest(), self.rule])
