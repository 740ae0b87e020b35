"""How far two models lie apart whose weights are to be added up: the base, and what its tuning is carried to."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from ftlib.artifacts import Artifact
from ftlib.errors import ModelError
from ftlib.fingerprint import Job, digest
from ftlib.models.checkpoint import Checkpoint
from ftlib.workspace import Workspace


class DistanceJob(Job):
    """The two models, as checkpoints."""

    stage: ClassVar[str] = "distance"
    version: ClassVar[int] = 1

    start: Checkpoint
    onto: Checkpoint


class Distance(Artifact):
    """What was measured."""

    apart: float
    """sum |a - b| / (sum |a| + sum |b|) over all weights: 0 for the same model, 1 at most."""

    def digest(self) -> str:
        """Return the digest of the number."""
        return digest([self.apart])


def distance(job: DistanceJob, work: Workspace) -> Distance:
    """Measure how far two models lie apart, streaming.

    Raises ModelError if one cannot be added to the other: other tensors, tokens or meanings, or a head of its own.
    """

    def build(folder: Path) -> Distance:
        from ftlib.merging.layer_distances import apart

        del folder  # the record is all there is
        if job.onto.fresh_head:
            raise ModelError(f"{job.onto.phase!r} has no head for these rows, and a random one means nothing")
        pair = (job.start, job.onto)
        return Distance(apart=apart(*((one.phase, one.weights_folder) for one in pair)))

    return work.once(job, Distance, build)
