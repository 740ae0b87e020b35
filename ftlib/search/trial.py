"""A trial's record: what was tried, what came of it, what it took."""

from __future__ import annotations

from typing import Literal

from pydantic import JsonValue

from ftlib.config import Config
from ftlib.evaluation.measured import Estimate
from ftlib.search.space import Point

State = Literal["done", "stopped", "diverged", "refused", "failed"]
"""done: measured. stopped: by successive halving. diverged: its training broke. refused: its values do not fit the
recipe, its rows, its model or the machine. failed: its process ended, or a library raised something."""


class Look(Config):
    """What a trial's last phase showed at a rung."""

    share: float
    """Of its steps, that the rung asks for."""
    step: int
    loss: float
    """On validation rows, lower being better."""


class Used(Config):
    """One stage call of a trial."""

    stage: str
    """What it does, for example `train tune`."""
    fingerprint: str


class Outcome(Config):
    """What came of a trial."""

    state: State
    reason: str = ""
    """Why it is not done."""
    value: Estimate | None = None
    """The metric of the candidate that it chose, on the validation split."""
    candidate: str = ""
    """The name of that candidate."""
    end: str = ""
    """Where the last phase's checkpoint is."""
    started_from: str = ""
    """The digest of the weights that the last phase started from."""
    looks: tuple[Look, ...] = ()
    steps: tuple[Used, ...] = ()
    seconds: float = 0.0
    """Of its process, waiting included."""
    work_seconds: float = 0.0
    """Of its stages that were not there yet."""


class Trial(Config):
    """One try."""

    number: int
    """From 0 on."""
    points: dict[str, Point]
    """As the sampler knows the values, by field."""
    values: dict[str, JsonValue]
    """By field."""
    outcome: Outcome
    finished: str = ""
    """When, in UTC."""

    @property
    def measured(self) -> float | None:
        """Return what the metric is; None where it was not measured."""
        return self.outcome.value.value if self.outcome.value else None
