"""What one worker needs to know: plain data, so it crosses to a Ray worker as JSON."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

from typing_extensions import override

from ftlib.config import BatchKind, Config
from ftlib.data.formats import Format
from ftlib.models.checkpoint import Checkpoint, FoundModel
from ftlib.training.checkpoints.run_place import RunPlace, run_place
from ftlib.training.compute import Compute
from ftlib.training.phase import Phase

AVERAGE = "trained_on_average"
"""The fact that says how many parameters learnt in a step, on average, where not all did from the first on."""


class Part(Config):
    """One dataset of a phase."""

    name: str
    folder: str
    """The prepared dataset's reference: a folder, or a URI below the work place that every node resolves."""
    share: float = 1.0
    """Of the phase's global batches; all parts' sum to 1."""
    task: str | None = None
    """Which task its rows are of, where the model has several."""


class GroupPlan(Config, ABC):
    """What a group of workers does together, and where it leaves what comes of it."""

    fingerprint: str
    """The job's: the run's name, and what its checkpoints are compared with."""
    run: str
    """Where checkpoints, curves and the result go; survives a kill."""
    kms_key: str | None = None
    """What the bucket of `run` encrypts with, if the recipe says so."""
    compute: Compute

    @property
    def place(self) -> RunPlace:
        """Return `run` as this process sees it."""
        return run_place(self.run, self.kms_key)

    @property
    @abstractmethod
    def what(self) -> str:
        """Return what errors call it."""


class Plan(GroupPlan):
    """One phase of training, resolved to references that every worker can read: folders, or URIs below a work place."""

    start: Checkpoint
    parts: tuple[Part, ...]
    """What it trains on: one dataset, or the parts of a mixture, by name."""
    kind: BatchKind
    labels: tuple[str, ...]
    phase: Phase
    precision: Literal["fp32", "bf16"]
    seed: int
    companions: dict[str, FoundModel | Checkpoint] = {}
    """Frozen models beside the one that trains, by name."""
    formats: dict[str, Format] = {}
    """How those of them are asked that read other rows."""
    scored_by_start: tuple[str, ...] = ()
    """Which of the scores that the rows bring are of what the phase starts from."""
    fisher: str | None = None
    """The file of the Fisher information that the penalty reads, or its URI."""

    @property
    @override
    def what(self) -> str:
        return f"phase {self.phase.name}"
