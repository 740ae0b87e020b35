"""One phase of training: a checkpoint to a checkpoint."""

from __future__ import annotations

from typing import ClassVar, Literal

from ftlib.artifacts import Checkpoint, PreparedDataset
from ftlib.fingerprint import Job
from ftlib.recipe import Compute, Phase
from ftlib.workspace import Workspace


class TrainJob(Job):
    """What to train, from where, on what. `precision` is the phase's, with `auto` resolved."""

    stage: ClassVar[str] = "train"
    version: ClassVar[int] = 1

    start: Checkpoint
    data: PreparedDataset
    phase: Phase
    precision: Literal["fp32", "bf16"]
    seed: int
    compute: Compute


def train(job: TrainJob, work: Workspace) -> Checkpoint:
    """Being written."""
    raise NotImplementedError
