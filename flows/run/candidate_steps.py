"""The steps behind the last phase: candidates are named, measured, and one is chosen."""

from collections.abc import Mapping, Sequence

from flows.run import candidate_jobs, companion_jobs
from flows.run.phase_steps import quoted
from flows.run.values import Data, whole
from ftlib.config import SELECTION, Split
from ftlib.data.datasets import PreparedDataset, RawDataset
from ftlib.evaluation.measured import EvalReport, KLToStart
from ftlib.evaluation.selection import Selection
from ftlib.merging.candidates import Candidate, Candidates
from ftlib.models.checkpoint import Checkpoint
from ftlib.recipe.recipe import Recipe
from ftlib.stages.batch_norm import batch_norm
from ftlib.stages.diverge import diverge
from ftlib.stages.evaluate import evaluate
from ftlib.stages.interpolate import InterpolateJob, interpolate, scores_so_far
from ftlib.stages.score import score
from ftlib.stages.select import select
from ftlib.stages.step import Steps, step
from ftlib.workspace import Workspace


def named_by(
    r: Recipe,
    trail: Sequence[Checkpoint] | None,
    siblings: Sequence[Checkpoint] | None,
    onto: Checkpoint | None,
    data: Data | None,
) -> InterpolateJob | None:
    """Return the job that names candidates; None while something that they are made of is not made."""
    if trail is None or siblings is None or (r.interpolation.carried_to and not onto):
        return None
    return candidate_jobs.interpolate_job(r, trail, siblings, onto, data and data.onto)


def sweep(
    r: Recipe,
    work: Workspace,
    job: InterpolateJob | None,
    prepared: Mapping[str, PreparedDataset] | None,
    beside: Mapping[str, PreparedDataset] | None,
    *,
    norms: bool,
) -> Steps[tuple[Candidates, list[EvalReport]] | None]:
    """Name candidates, as a job asks at first, and measure them, until what was measured asks for no more of them.

    `beside` is as `enriched` returns it. With `norms` the model has BatchNorm, and each candidate gets its own
    statistics before it is measured.
    """
    count = r.interpolation.count()
    named = yield from step(interpolate, job, candidates=count)
    members = yield from completed(r, named and named.members, prepared, count, norms=norms)
    reports = yield from measured(r, members, prepared, SELECTION, count, beside)
    while r.interpolation.adaptive and job and named and members and reports:
        by_digest = {member.as_named.digest(): member for member in members}
        job = job.model_copy(update={"scores": scores_so_far(members, reports, r, work)})
        named = yield from step(interpolate, job, candidates=count)
        new = [member for member in named.members if member.digest() not in by_digest] if named else []
        if not new:
            break
        new = yield from completed(r, new, prepared, len(new), norms=norms)
        more = yield from measured(r, new, prepared, SELECTION, len(new or ()), beside)
        if named and new and more:
            by_digest |= {member.as_named.digest(): member for member in new}
            members = [by_digest[member.digest()] for member in named.members]
        reports = more and [*reports, *more]
    if not (named and members and reports):
        return None
    return named.model_copy(update={"members": tuple(members)}), reports


def completed(
    r: Recipe,
    members: Sequence[Candidate] | None,
    prepared: Mapping[str, PreparedDataset] | None,
    count: int,
    *,
    norms: bool,
) -> Steps[Sequence[Candidate] | None]:
    """Give candidates, of which there will be `count` at most, BatchNorm statistics of their own with `norms`."""
    if not norms:
        return members
    job = candidate_jobs.batch_norm_job(r, members, prepared) if members and prepared else None
    made = yield from step(batch_norm, job, on_ray=r.compute.infers_on_ray, candidates=count)
    return made and made.members


def enriched(
    r: Recipe,
    trail: Sequence[Checkpoint] | None,
    prepared: Mapping[str, PreparedDataset] | None,
    raw: Mapping[str, RawDataset] | None,
) -> Steps[Mapping[str, PreparedDataset] | None]:
    """Return the rows of the evaluations that measure rewards, by name, with what the metrics read beside tokens.

    That is what a reference says of them, or their prompts as texts.
    """
    beside: dict[str, PreparedDataset] = {}
    read = [name for name, one in r.evaluations.items() if any(metric.reads_prompts for metric in one.metrics)]
    for name in read:
        dataset = r.evaluations[name].dataset
        if made := (yield from quoted(r, dataset, prepared.get(dataset) if prepared else None, raw)):
            beside[name] = made
    names = [name for name, evaluation in r.evaluations.items() if evaluation.reference is not None]
    for name in names:
        job = None if trail is None or not prepared else companion_jobs.reference_job(r, name, trail, prepared)
        which = f"{r.evaluations[name].dataset} by reference for {name}"
        if made := (yield from step(score, job, which, on_ray=r.compute.infers_on_ray)):
            beside[name] = made
    return beside if {*beside} == {*read, *names} else None


def measured(
    r: Recipe,
    members: Sequence[Candidate] | None,
    prepared: Mapping[str, PreparedDataset] | None,
    split: Split,
    count: int,
    beside: Mapping[str, PreparedDataset] | None,
    of: str = "",
) -> Steps[list[EvalReport] | None]:
    """Measure candidates, of which there will be `count` at most, on one split of every evaluation.

    `beside` is as `enriched` returns it; `of` is what the steps say of them.
    """
    reports: list[EvalReport | None] = []
    for name in r.evaluations:
        job = None
        if members and prepared and beside is not None:
            job = candidate_jobs.evaluate_job(r, name, members, prepared, split, beside)
        on_ray, number = r.compute.infers_on_ray, len(members or ()) or count
        reports.append(
            (yield from step(evaluate, job, f"{name} {split} {of}".rstrip(), on_ray=on_ray, candidates=number))
        )
    return whole(reports)


def chosen(
    r: Recipe,
    swept: tuple[Candidates, list[EvalReport]] | None,
    prepared: Mapping[str, PreparedDataset] | None,
) -> Steps[Selection | None]:
    """Choose one of the measured candidates, after measuring how far each moved where the rule asks for that."""
    distances: KLToStart | None = None
    if r.select.divergence:
        job = candidate_jobs.diverge_job(r, *swept, prepared) if swept and prepared else None
        distances = yield from step(diverge, job)
    told = distances is not None or r.select.divergence is None
    return (yield from step(select, candidate_jobs.select_job(r, *swept, distances) if swept and told else None))
