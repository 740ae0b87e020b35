"""What was measured, with its intervals, and the tables of outcomes it was computed from."""

from __future__ import annotations

from collections.abc import Callable

from ftlib.artifacts import Artifact
from ftlib.config import Config, Split
from ftlib.fingerprint import digest
from ftlib.kinds.outcomes.base import Outcomes
from ftlib.kinds.outcomes_file import read_outcomes
from ftlib.workspace import Workspace

KL_TO_START = "kl_to_start"
"""What rules call it, after the evaluation's name: fit/kl_to_start."""

Tables = Callable[["Measured"], Outcomes]
"""Reads the table of outcomes behind a cell. Raises StorageError if it is gone."""


class Estimate(Config):
    """A metric with its confidence interval, in the metric's own unit; or why these rows do not define it."""

    value: float | None
    low: float | None
    high: float | None
    undefined: str = ""
    """What the rows lack where there is no value."""

    def numbers(self) -> tuple[float, float, float] | None:
        """Return low, value and high; None where the metric is undefined."""
        if self.low is None or self.value is None or self.high is None:
            return None
        return self.low, self.value, self.high


class SliceFacts(Config):
    """A metric on part of the rows."""

    rows: int
    metrics: dict[str, Estimate]


class Measured(Config):
    """One candidate on one split of one evaluation, computed from its table of per-example outcomes."""

    candidate: str
    weights: str
    """The digest of the candidate's tensors."""
    alpha: float | None
    """None where the candidate is not a point of an interpolation."""
    evaluation: str
    split: Split
    rows: int
    outcomes: str
    """The per-example table, relative to the work folder's root: row_id, gold, predicted, nll, probabilities."""
    metrics: dict[str, Estimate]
    signatures: dict[str, str] = {}
    """What the values of some metrics must be cited with: the library's version and settings."""
    slices: dict[str, SliceFacts] = {}


class EvalReport(Artifact):
    """Every measured (candidate, evaluation, split) of one evaluate job."""

    measured: tuple[Measured, ...]

    def digest(self) -> str:
        """Return the digest of all values."""
        return digest([m.model_dump(mode="json", exclude={"outcomes"}) for m in self.measured])

    def of(self, candidate: str, evaluation: str, split: Split) -> Measured:
        """Return one cell; KeyError names what is there if it is absent."""
        for cell in self.measured:
            if (cell.candidate, cell.evaluation, cell.split) == (candidate, evaluation, split):
                return cell
        have = sorted({(m.candidate, m.evaluation, m.split) for m in self.measured})
        raise KeyError(f"no measurement of {candidate!r} on {evaluation}/{split}; measured: {have}")


class Moved(Config):
    """How far one candidate's answers are from the start's."""

    candidate: str
    kl: Estimate
    """Mean KL(start || candidate) in nats, per row of a classifier and per supervised token of a language model."""
    at_most: float
    """Its upper bound, one-sided, at the evaluation's confidence."""


class KLToStart(Artifact):
    """Every candidate's distance from the start on the selection split of one evaluation."""

    evaluation: str
    moved: tuple[Moved, ...]

    def digest(self) -> str:
        """Return the digest of all values."""
        return digest([self.evaluation, *(one.model_dump(mode="json") for one in self.moved)])


def tables_in(work: Workspace) -> Tables:
    """Return what reads a measurement's table from this work place."""
    return lambda cell: read_outcomes(work.shared(cell.outcomes))
