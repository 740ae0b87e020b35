"""The last phase's ends, and fine-tunes beside them, to the candidates that are made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from ftlib.artifacts import Candidates, Checkpoint, EvalReport
from ftlib.config import Config
from ftlib.errors import RecipeError
from ftlib.fingerprint import Job
from ftlib.interpolation import Interpolation, Off
from ftlib.workspace import Workspace


class Score(Config):
    """What `select.by`, and `plus`, say of one candidate so far; higher is better."""

    weights: str
    """The candidate's digest."""
    value: float


class InterpolateJob(Job):
    """The exact step-0 weights of the last phase, its end, fine-tunes beside it, and the points wanted."""

    stage: ClassVar[str] = "interpolate"
    version: ClassVar[int] = 2

    start: Checkpoint
    end: Checkpoint
    siblings: tuple[Checkpoint, ...] = ()
    interpolation: Interpolation
    scores: tuple[Score, ...] = ()
    """For methods that look at what was measured before they name more points; empty at first."""


def interpolate(job: InterpolateJob, work: Workspace) -> Candidates:
    """Name the candidates; no weights are written.

    A method that is `adaptive` names more of them when it is asked again with the scores of those it named: it is
    done when it names no new ones. Raises ModelError if the checkpoints do not belong together (another lineage, a
    fresh head, other tensors or labels), RecipeError if siblings are missing or two candidates have one name.
    """
    if len(job.siblings) < job.interpolation.least:
        raise RecipeError(
            f"interpolation: {job.interpolation.kind!r} needs at least {job.interpolation.least} more fine-tune beside "
            "the last phase's; give it seeds or siblings"
        )
    scores = {score.weights: score.value for score in job.scores}
    members = job.interpolation.points(job.start, job.end, job.siblings, scores)

    def build(folder: Path) -> Candidates:
        del folder  # the record is all there is
        names = [member.name for member in members]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise RecipeError(f"interpolation: {', '.join(twice)} is there twice (six digits count)")
        if not isinstance(job.interpolation, Off):
            from ftlib.training.merge import check_candidate

            for member in members:
                check_candidate(member)
        return Candidates(members=members)

    # A record keeps no folders: the checkpoints are taken from the job, which knows where they are today.
    return work.once(job, Candidates, build).model_copy(update={"members": members})


def scores_of(reports: Sequence[EvalReport], terms: Mapping[str, float]) -> tuple[Score, ...]:
    """Return the weighted sum of `evaluation/metric` for every candidate that has them all, sorted by digest."""
    measured = {
        (f"{cell.evaluation}/{metric}", cell.weights): estimate.value
        for report in reports
        for cell in report.measured
        for metric, estimate in cell.metrics.items()
    }
    everyone = sorted({weights for _, weights in measured})
    return tuple(
        Score(weights=weights, value=sum(weight * measured[path, weights] for path, weight in terms.items()))
        for weights in everyone
        if all((path, weights) in measured for path in terms)
    )
