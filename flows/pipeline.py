"""From a recipe to everything known about its best candidate: the part that every training flow shares."""

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from types import MappingProxyType

from flows import jobs
from flows.ray_when_needed import RayWhenNeeded
from flows.rows_page import show_rows
from ftlib.config import REPORT, SELECTION, Config
from ftlib.data.datasets import PreparedDataset, RawDataset
from ftlib.data.listed import FileVersion
from ftlib.data.sources.pins import pin
from ftlib.evaluation.measured import EvalReport
from ftlib.merging.candidates import Candidate, Candidates
from ftlib.merging.plan import check_patterns
from ftlib.models.adapter import find_any
from ftlib.models.checkpoint import Checkpoint, FoundModel
from ftlib.progress import note
from ftlib.recipe.evidence import Evidence
from ftlib.recipe.preflight import check_forms, check_labels, check_registry, check_rule, check_writing, spelling_notes
from ftlib.recipe.recipe import Recipe
from ftlib.recipe.resources import check_resources
from ftlib.retraining.training_rows import UsedRows
from ftlib.stages.evaluate import EvaluateJob
from ftlib.stages.interpolate import scores_so_far
from ftlib.stages.train import runs_on_ray
from tasks.assess import evaluate, interpolate, select
from tasks.data import ingest, preprocess
from tasks.runner import Runner
from tasks.train import base, train


class Data(Config):
    """What the phases train and are measured on."""

    model: FoundModel
    raw: dict[str, RawDataset]
    prepared: dict[str, PreparedDataset]
    labels: tuple[str, ...]
    """The labels that training sees; empty where there are none."""


def prepare(
    r: Recipe,
    run: Runner,
    files: Mapping[str, tuple[FileVersion, ...]] | None = None,
    used: Mapping[str, UsedRows] = MappingProxyType({}),
    names: Sequence[str] = (),
) -> Data:
    """Ingest and preprocess; `files` instead of what the sources list now, `used` of each instead of all rows.

    `names` are the labels of a version that this one is to replace: they are called as there.
    """
    check_registry(r)
    model = find_any(r.model, jobs.bases(r, run.work))
    check_resources(r, Path(model.uri))
    pins = {name: pin(dataset.source, run.work) for name, dataset in r.datasets.items()} if files is None else files
    raw = {name: run(ingest, jobs.ingest_job(r, name, pins[name])) for name in r.datasets}
    prepared = {name: run(preprocess, jobs.preprocess_job(r, name, raw, model, used.get(name))) for name in r.datasets}
    show_rows(r.name, raw, prepared)
    labels = check_labels(r, prepared, names)
    for words in spelling_notes(prepared, labels):
        note("labels", words)
    check_rule(r, prepared)
    check_writing(r, prepared, lambda: _positions(Path(model.uri)))
    return Data(model=model, raw=raw, prepared=prepared, labels=labels)


def find_best(r: Recipe, run: Runner, data: Data) -> Evidence:
    """Train every phase, interpolate, measure, choose. Raises whatever a stage raises."""
    prepared = data.prepared
    siblings = jobs.found_siblings(r, run.work)

    trail = [run(base, jobs.base_job(r, data.model, data.labels))]
    check_forms(r, trail[0].form)
    if patterns := r.interpolation.patterns():
        check_patterns(patterns, trail[0].weights_folder)
    with RayWhenNeeded(r.compute) as ray:  # it starts while a probe is fitted, for the phase after that
        for phase, following in zip_longest(r.phases, r.phases[1:]):
            job = jobs.train_job(r, phase, trail[-1], prepared)
            to_do = not run.work.has(job)
            if to_do and job.needs_ray():
                ray.start()
            soon = to_do and following is not None and runs_on_ray(following, r.compute)
            trail.append(run.on_thread(train, job, meanwhile=ray.start if soon else None))
        for seed in r.interpolation.seeds:
            job = jobs.train_job(r, r.phases[-1], trail[-2], prepared, seed)
            if job.needs_ray() and not run.work.has(job):
                ray.start()
            siblings.append(jobs.sibling_of(run.on_thread(train, job), seed))
        candidates, sweep = _swept(r, run, trail, siblings, prepared, ray)
        selection = run(select, jobs.select_job(r, candidates, sweep))
        finalists = [*map(Candidate.of, trail), selection.chosen]
        final = _measured(run, ray, jobs.evaluate_jobs(r, finalists, prepared, REPORT))

    return Evidence(
        recipe=r,
        model=data.model,
        raw=data.raw,
        prepared=prepared,
        checkpoints=tuple(trail),
        candidates=candidates,
        sweep=tuple(sweep),
        selection=selection,
        final=tuple(final),
    )


def _swept(
    r: Recipe,
    run: Runner,
    trail: Sequence[Checkpoint],
    siblings: Sequence[Checkpoint],
    prepared: Mapping[str, PreparedDataset],
    ray: RayWhenNeeded,
) -> tuple[Candidates, list[EvalReport]]:
    """Name candidates and measure them, until what was measured asks for no more of them."""
    candidates = run(interpolate, jobs.interpolate_job(r, trail, siblings))
    sweep = _measured(run, ray, jobs.evaluate_jobs(r, candidates.members, prepared, SELECTION))
    while r.interpolation.adaptive:
        known = {member.digest() for member in candidates.members}
        scores = scores_so_far(candidates, sweep, r, run.work)
        candidates = run(interpolate, jobs.interpolate_job(r, trail, siblings, scores))
        new = [member for member in candidates.members if member.digest() not in known]
        if not new:
            break
        sweep += _measured(run, ray, jobs.evaluate_jobs(r, new, prepared, SELECTION))
    return candidates, sweep


def _measured(run: Runner, ray: RayWhenNeeded, to_measure: Sequence[EvaluateJob]) -> list[EvalReport]:
    """Measure, on Ray where the recipe says so; otherwise Ray, if it still runs, ends meanwhile."""
    if any(job.needs_ray() and not run.work.has(job) for job in to_measure):
        ray.start()
        return [run(evaluate, job) for job in to_measure]
    return [run.on_thread(evaluate, job, meanwhile=ray.stop) for job in to_measure]


def _positions(model: Path) -> int | None:
    from ftlib.models.limits import limits_of  # loads torch

    return limits_of(model).positions
