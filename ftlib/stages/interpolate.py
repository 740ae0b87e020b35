"""Start and end of a phase to the candidates between them."""

from __future__ import annotations

from typing import ClassVar

from ftlib.artifacts import Candidates, Checkpoint
from ftlib.fingerprint import Job
from ftlib.interpolation import Interpolation
from ftlib.workspace import Workspace


class InterpolateJob(Job):
    """The exact step-0 weights of the last phase, its end, and the points wanted."""

    stage: ClassVar[str] = "interpolate"
    version: ClassVar[int] = 1

    start: Checkpoint
    end: Checkpoint
    interpolation: Interpolation


def interpolate(job: InterpolateJob, work: Workspace) -> Candidates:
    """Being written."""
    raise NotImplementedError
