"""The base model with the head the objective needs: where the first phase starts."""

from __future__ import annotations

from typing import ClassVar

from ftlib.artifacts import Checkpoint, FoundModel
from ftlib.config import BatchKind
from ftlib.fingerprint import Job
from ftlib.workspace import Workspace


class BaseJob(Job):
    """Which model, with a head for which labels. A head the model already has for just these labels is kept."""

    stage: ClassVar[str] = "base"
    version: ClassVar[int] = 1

    model: FoundModel
    kind: BatchKind
    labels: tuple[str, ...]
    seed: int


def base(job: BaseJob, work: Workspace) -> Checkpoint:
    """Being written."""
    raise NotImplementedError
