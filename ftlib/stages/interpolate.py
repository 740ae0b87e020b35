"""Start and end of a phase to the candidates between them."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from ftlib.artifacts import Candidates, Checkpoint
from ftlib.errors import RecipeError
from ftlib.fingerprint import Job
from ftlib.interpolation import Interpolation, Off
from ftlib.workspace import Workspace


class InterpolateJob(Job):
    """The exact step-0 weights of the last phase, its end, and the points wanted."""

    stage: ClassVar[str] = "interpolate"
    version: ClassVar[int] = 1

    start: Checkpoint
    end: Checkpoint
    interpolation: Interpolation


def interpolate(job: InterpolateJob, work: Workspace) -> Candidates:
    """Name the points of the line from `start` to `end`; no weights are written.

    Raises ModelError if the two do not lie on one line (another lineage, a fresh head, other tensors or labels),
    RecipeError if two alphas are so close that they have one name.
    """
    members = job.interpolation.points(job.start, job.end)

    def build(folder: Path) -> Candidates:
        del folder  # the record is all there is
        names = [member.name for member in members]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise RecipeError(f"interpolation.alphas: {', '.join(twice)} is there twice (six digits count)")
        if not isinstance(job.interpolation, Off):
            from ftlib.training.mix import check_mixable

            check_mixable(job.start, job.end)
        return Candidates(members=members)

    # A record keeps no folders: the checkpoints are taken from the job, which knows where they are today.
    return work.once(job, Candidates, build).model_copy(update={"members": members})
