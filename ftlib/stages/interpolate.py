"""The last phase's ends, and fine-tunes beside them, to the candidates that are made of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from ftlib.errors import RecipeError
from ftlib.evaluation.candidate_scores import scores
from ftlib.evaluation.measured import EvalReport, tables_in
from ftlib.fingerprint import Job
from ftlib.merging.candidates import Candidate, Candidates
from ftlib.merging.interpolation import Interpolation
from ftlib.merging.interpolation.ends import Ends, Score
from ftlib.models.checkpoint import Checkpoint
from ftlib.progress import note
from ftlib.recipe.recipe import Recipe
from ftlib.wording import counted
from ftlib.workspace import Workspace


class InterpolateJob(Job):
    """The exact step-0 weights of the last phase, its end, fine-tunes beside it, and the points wanted."""

    stage: ClassVar[str] = "interpolate"
    version: ClassVar[int] = 2
    introduced: ClassVar[Mapping[str, object]] = {"onto": None, "carried": None}

    start: Checkpoint
    end: Checkpoint
    siblings: tuple[Checkpoint, ...] = ()
    onto: Checkpoint | None = None
    """The model that what training did is carried to, where it is."""
    carried: Checkpoint | None = None
    """The end over that model, where the end is an adapter."""
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
    by_weights = {score.weights: score for score in job.scores}
    ends = Ends(job.start, job.end, job.siblings, job.onto, job.carried, by_weights)
    members = job.interpolation.points(ends)

    def build(folder: Path) -> Candidates:
        del folder  # the record is all there is
        names = [member.name for member in members]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise RecipeError(f"interpolation: {', '.join(twice)} is there twice (six digits count); take one out")
        if job.interpolation.mixes:
            from ftlib.merging.candidate_weights import check_candidate

            for member in members:
                for task in [task.name for task in member.end.tasks] or [None]:
                    check_candidate(member.of_task(task))
        return Candidates(members=members, remarks=tuple(_remarks(job, members)))

    named = work.once(job, Candidates, build)
    for words in named.remarks:
        note("interpolate", words)
    # A record keeps no folders: the checkpoints are taken from the job, which knows where they are today.
    return named.model_copy(update={"members": members})


def _remarks(job: InterpolateJob, members: Sequence[Candidate]) -> Iterator[str]:
    """Say how far candidates went whose method decides that, and how far what is carried had to go."""
    if job.onto and (far := job.onto.facts.get("apart")) is not None:
        yield f"{job.onto.phase} lies {far:.4f} from {job.start.phase}, by sum |a - b| / (sum |a| + sum |b|)"
    for member in members:
        if not member.siblings or member.end.tasks or member.end.form == "adapter":
            continue
        from ftlib.merging.layer_distances import reach

        if (far := reach(member)) is None:
            continue
        way = f"from {member.start.phase} to the mean of {counted(len(member.parts) - 1, 'fine-tune')}"
        yield f"{member.name} goes {far:.0%} of the way {way}"


def scores_so_far(
    members: Sequence[Candidate], reports: Sequence[EvalReport], recipe: Recipe, work: Workspace
) -> tuple[Score, ...]:
    """Return what an adaptive method is told of the candidates it has named, sorted by their digests.

    Raises RecipeError if a metric of the rule was not measured for each, StorageError if a table of outcomes is gone.
    """
    terms, load = {recipe.select.by: 1.0, **recipe.select.plus}, tables_in(work)
    scored = scores(terms, members, reports, recipe.evaluations, load, recipe.seed)
    best = scored.best(range(len(members)))
    errors = (scored.resampled[best] - scored.resampled).std(axis=1)
    everyone = zip(members, scored.merits, errors, strict=True)
    told = (
        Score(weights=one.as_named.digest(), value=float(merit), error=float(error)) for one, merit, error in everyone
    )
    return tuple(sorted(told, key=lambda score: score.weights))
