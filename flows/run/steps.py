"""What comes after what, written once: `steps` yields the jobs of a run in order, and is sent what their stages made.

`finetune` and `retrain` run each step as a task; `plan` looks each up in the work folder, and answers None where it is
not made yet: then what follows has no job. So every part here says what it needs, and does without it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from flows.run import jobs, models_beside
from flows.run.candidate_steps import chosen, enriched, measured, named_by, sweep
from flows.run.phase_steps import one_phase, trained, upheld
from flows.run.values import Data, Inputs, Outcome, whole
from ftlib.config import REPORT
from ftlib.data.datasets import PreparedDataset, RawDataset
from ftlib.data.forgotten import ForgetRequest, read_requests
from ftlib.data.listed import FileVersion
from ftlib.data.sources.pins import pin
from ftlib.evaluation.learning_curve import CurveEvidence, ShareEnd, of_share
from ftlib.evaluation.principle_facts import Upheld
from ftlib.evaluation.selection import Selection
from ftlib.merging.batch_norm import has_batch_norm
from ftlib.merging.candidates import Candidate
from ftlib.merging.plan import check_layers, check_patterns
from ftlib.models.adapter import find_any
from ftlib.models.checkpoint import Checkpoint, Form, FoundModel
from ftlib.models.folder import tensor_spans
from ftlib.models.parameter_names import layers_in
from ftlib.progress import note
from ftlib.recipe.evidence import Evidence
from ftlib.recipe.hindsight import one_answer_notes
from ftlib.recipe.preflight import (
    audit_notes,
    check_apart,
    check_forms,
    check_labels,
    check_modality,
    check_parts,
    check_principles,
    check_prompts,
    check_prune,
    check_registry,
    check_rewards,
    check_rule,
    check_tasks,
    check_writing,
    rare_label_notes,
    task_spelling_notes,
)
from ftlib.recipe.recipe import Recipe
from ftlib.recipe.remarks import interpolation_remarks
from ftlib.recipe.resources import check_resources
from ftlib.report.report import Report
from ftlib.retraining.training_rows import UsedRows
from ftlib.stages.add_tokens import AddTokensJob, add_tokens
from ftlib.stages.base import base
from ftlib.stages.distance import DistanceJob, distance
from ftlib.stages.fisher import fisher
from ftlib.stages.ingest import ingest
from ftlib.stages.preprocess import preprocess
from ftlib.stages.prune import prune
from ftlib.stages.register import RegisterJob, register
from ftlib.stages.report import ReportJob, report
from ftlib.stages.step import Steps, step
from ftlib.stages.thin import thin
from ftlib.training.fisher.record import Fisher, read_carried
from ftlib.workspace import Workspace


def inputs(
    r: Recipe,
    work: Workspace,
    files: Mapping[str, tuple[FileVersion, ...]] | None = None,
    used: Mapping[str, UsedRows] = MappingProxyType({}),
    names: Sequence[str] = (),
) -> Inputs:
    """Find what a run begins with, and what would stop it later: registry, model, machine, sources.

    `files` instead of what the sources list now. Raises StorageError, ModelError, RecipeError or DataError.
    """
    check_registry(r, work)
    model = find_any(r.model, models_beside.bases(r, work))
    companions = models_beside.found_companions(r, work, model)
    check_resources(r, model.folder, companions)
    check_prune(r, model)
    check_principles(r)
    check_rewards(r)
    models_beside.find_asked(r)
    if r.phases[0].penalty and (kept := r.phases[0].penalty.keeps) and not kept.datasets:
        read_carried(model)  # what it lacks is said now, and not behind the rows
    onto = models_beside.found_onto(r, work)
    files = pinned(r, work) if files is None else files
    return Inputs(model, files, used, names, companions, onto=onto, forgotten=read_requests(work))


def pinned(r: Recipe, work: Workspace) -> dict[str, tuple[FileVersion, ...]]:
    """Freeze what the sources list now. Raises DataError where one has nothing."""
    return {name: pin(dataset.source, work) for name, dataset in r.datasets.items()}


def steps(r: Recipe, work: Workspace, given: Inputs) -> Steps[Outcome | None]:
    """Yield a whole run: from rows to a published version, or a gate's refusal. Raises what a recipe's rows refute."""
    data = yield from prepare(r, given)
    evidence = yield from find_best(r, work, data, given.model)
    return (yield from publish(evidence))


def prepare(r: Recipe, given: Inputs) -> Steps[Data | None]:
    """Ingest and preprocess every dataset, with the tokens that are added, and check that they go together."""
    check_modality(r, given.model.folder)
    for words in interpolation_remarks(r):
        note("interpolation", words)
    model, added = given.model, None
    if r.added_tokens:
        added = yield from step(add_tokens, AddTokensJob(model=model, tokens=r.added_tokens))
        model = added and added.found(model.name)
    if model:
        models_beside.check_companions(r, model, given.companions)
    raw = yield from ingested(r, given.files, given.forgotten)
    prepared: dict[str, PreparedDataset] = {}
    for name in r.datasets:
        job = jobs.preprocess_job(r, name, raw, model, given.used.get(name)) if raw and model else None
        if models := (yield from step(preprocess, job, name, on_ray=r.compute.prepares_on_ray)):
            prepared[name] = models
    if raw is None or model is None or len(prepared) < len(r.datasets):
        return None
    labels = check_labels(r, prepared, given.names)
    models_beside.check_companions(r, model, given.companions, labels)
    tasks = check_tasks(r, prepared, given.task_names)
    check_parts(r, prepared)
    for words in (*task_spelling_notes(r, prepared, labels, tasks), *rare_label_notes(r, prepared)):
        note("labels", words)
    for words in audit_notes(r, prepared):
        note("supervision", words)
    check_rule(r, prepared)
    places = max(phase.tuning.places for phase in r.phases)
    if places:
        check_prompts(r, prepared, model.form, _positions(model.folder))
    check_writing(r, prepared, lambda: _positions(model.folder, 0 if model.base else places))
    companions: dict[str, dict[str, FoundModel | Checkpoint]] = {
        phase: dict(models) for phase, models in given.companions.items()
    }
    return Data(
        model=model,
        companions=companions,
        raw=raw,
        prepared=prepared,
        labels=labels,
        tasks=tasks,
        onto=given.onto,
        added_rows=added.ids if added else (),
    )


def ingested(
    r: Recipe, files: Mapping[str, tuple[FileVersion, ...]], forgotten: Sequence[ForgetRequest]
) -> Steps[dict[str, RawDataset] | None]:
    """Ingest every dataset."""
    raw: dict[str, RawDataset] = {}
    for name in r.datasets:
        job = jobs.ingest_job(r, name, files[name], forgotten)
        if made := (yield from step(ingest, job, name, on_ray=r.compute.prepares_on_ray)):
            raw[name] = made
    return raw if len(raw) == len(r.datasets) else None


@dataclass
class _Trained:
    """What the phases made, as far as it is there."""

    trail: list[Checkpoint | None]
    """The start, and each phase's end; from the last phase that starts from the base model on."""
    data: Data | None
    """What all phases train on, with the ends that later ones ask of those in `aside`."""
    rows: Data | None
    """What the last phase read."""
    upheld: list[Upheld | None]
    begun: dict[str, tuple[int, Form]]
    """By phase, how much of the trail there was before it, and the form of the model that it began with."""
    aside: list[Checkpoint | None] = field(default_factory=list[Checkpoint | None])
    """What phases made before one that starts from the base model."""
    answering: int = 0
    """Where in the trail the head of the last checkpoint was new: those before answer something else."""


def find_best(r: Recipe, work: Workspace, data: Data | None, model: FoundModel) -> Steps[Evidence | None]:
    """Train every phase of a model, interpolate, measure, choose, and measure the choice beside every phase's end."""
    elsewhere = models_beside.found_siblings(r, work) if data else []
    start = yield from _started(r, data, model, elsewhere)
    onto = yield from carried_to(r, start, data)
    made = yield from _phases(r, start, data, model.form)
    data = made.data
    checkpoints, aside, prepared = whole(made.trail), whole(made.aside), data and data.prepared
    siblings = yield from _siblings(r, made, elsewhere)
    named = named_by(r, checkpoints, whole(siblings), onto, data)
    beside = yield from enriched(r, checkpoints, prepared, data and data.raw)
    swept = yield from sweep(r, work, named, prepared, beside, norms=_measures_norms(r, model))
    selection = yield from chosen(r, swept, prepared)
    carried = yield from _carried(r, selection, prepared)
    ends = checkpoints and [*checkpoints[made.answering :], *([onto] if onto else [])]
    finalists = [*map(Candidate.of, ends), selection.chosen] if ends and selection else None
    final = yield from measured(r, finalists, prepared, REPORT, len(made.trail) - made.answering + 1, beside)
    length, form = made.begun[r.learning_phases[0].name]
    curve = yield from learnt_of_shares(r, made.trail[:length], form, data, beside)
    carries = (carried or not r.publish.fisher) and (curve or not r.learning_curve)
    if not (data and checkpoints and aside is not None and swept and selection and final and carries):
        return None
    if not all(made.upheld):
        return None
    evidence = Evidence(
        recipe=r,
        model=data.model,
        raw=data.raw,
        prepared=data.prepared,
        checkpoints=tuple(checkpoints),
        candidates=swept[0],
        sweep=tuple(swept[1]),
        selection=selection,
        final=tuple(final),
        companions={
            phase.name: models_beside.beside_phase(phase, [*aside, *checkpoints], data.companions.get(phase.name, {}))
            for phase in r.phases
            if phase.beside
        },
        fisher=carried,
        onto=data.onto,
        upheld=tuple(one for one in made.upheld if one),
        curve=curve,
        aside=tuple(aside),
    )
    for words in one_answer_notes(r, evidence.measured(evidence.selection.chosen.name), evidence.prepared):
        note("measured", words)
    return evidence


def _started(
    r: Recipe, data: Data | None, model: FoundModel, elsewhere: Sequence[Checkpoint]
) -> Steps[Checkpoint | None]:
    """Give the model the head that the rows want, and see that what the recipe names of it is there."""
    start = yield from step(base, data and jobs.base_job(r, data.model, data.labels, data.tasks))
    if start:
        check_forms(r, start.form, elsewhere, model.base.quantization if model.base else None)
        _check_named_tensors(r, start)
    return start


def _phases(r: Recipe, start: Checkpoint | None, data: Data | None, form: Form) -> Steps[_Trained]:
    """Take layers away where the recipe says so, and train each phase from the end of the one before, or from there."""
    made, given = _Trained(trail=[start], data=data, rows=data, upheld=[], begun={}), form
    if r.prune:
        made.trail.append((yield from step(prune, start and data and jobs.prune_job(r, start, data.prepared))))
    first = [*made.trail]
    for phase in r.phases:
        if phase.start:
            made.aside += made.trail[len(first) :]
            made.trail, made.answering, form = [*first], 0, given
        made.data = models_beside.with_ends(r, phase, made.data, made.aside)
        made.begun[phase.name] = len(made.trail), form
        if r.takes_new_head(phase):
            made.answering = len(made.trail)
        made.trail, made.rows, wrote = yield from one_phase(r, phase, made.trail, form, made.data)
        made.upheld += yield from upheld(r, phase, whole(made.trail), made.data, wrote)
        form = phase.tuning.leaves or form
    return made


def _siblings(r: Recipe, made: _Trained, elsewhere: Sequence[Checkpoint]) -> Steps[list[Checkpoint | None]]:
    """Train the last phase again with each other seed; return these ends behind those that other runs made."""
    siblings: list[Checkpoint | None] = [*elsewhere]
    for seed in r.interpolation.seeds:
        again = yield from trained(r, r.phases[-1], made.trail[:-1], made.rows, seed)
        siblings.append(again and jobs.sibling_of(again, seed))
    return siblings


def _carried(
    r: Recipe, selection: Selection | None, prepared: Mapping[str, PreparedDataset] | None
) -> Steps[Fisher | None]:
    """Measure the Fisher information that is published beside the choice, if the recipe asks for it."""
    if not r.publish.fisher:
        return None
    job = jobs.fisher_job(r, r.publish.fisher, selection.chosen, prepared) if selection and prepared else None
    return (yield from step(fisher, job, "to publish", on_ray=r.compute.most_workers > 0))


def learnt_of_shares(
    r: Recipe,
    trail: Sequence[Checkpoint | None],
    form: Form,
    data: Data | None,
    beside: Mapping[str, PreparedDataset] | None,
) -> Steps[CurveEvidence | None]:
    """Train again on shares of the rows what the learning curve asks for, from the trail's end, and measure it."""
    ends: list[ShareEnd | None] = []
    for share, seed in r.learning_curve.trainings() if r.learning_curve else ():
        less = yield from thinned(r, share, seed, data)
        so_far, now = [*trail], form
        for phase in r.learning_phases:
            called = of_share(phase.name, share)
            so_far, _, _ = yield from one_phase(r, phase, so_far, now, less, seed=seed, called=called)
            end, now = so_far[-1], phase.tuning.leaves or now
            # Later phases ask for it by the name that the recipe gives it.
            so_far[-1] = end and end.model_copy(update={"phase": phase.name})
        name = of_share(r.phases[-1].name, share) + ("" if seed is None else f"-seed{seed}")
        end = so_far[-1] and so_far[-1].model_copy(update={"phase": name})
        count = sum(less.prepared[part].splits["train"].rows for part in r.phases[-1].parts) if less else 0
        ends.append(end and ShareEnd(share=share, seed=seed, rows=count, checkpoint=end))
    if not ends:
        return None
    made = whole(ends)
    members = None if made is None else [Candidate.of(one.checkpoint) for one in made]
    reports = yield from measured(r, members, data and data.prepared, REPORT, len(ends), beside, of="of shares")
    return CurveEvidence(ends=tuple(made), reports=tuple(reports)) if made and reports else None


def thinned(r: Recipe, share: float, seed: int | None, data: Data | None) -> Steps[Data | None]:
    """Take a share of the training rows of every dataset that the last phase trains on; 1 is all of them."""
    less: dict[str, PreparedDataset] = {}
    names = [*r.phases[-1].parts] if share < 1.0 else []
    for name in names:
        job = jobs.thin_job(r, data.prepared[name], share, seed) if data else None
        which = f"{name} to {100 * share:g} %" + ("" if seed is None else f" by seed {seed}")
        if made := (yield from step(thin, job, which)):
            less[name] = made
    if data is None or len(less) < len(names):
        return None
    return data.model_copy(update={"prepared": {**data.prepared, **less}})


def _check_named_tensors(r: Recipe, start: Checkpoint) -> None:
    """Raise ModelError if the interpolation names tensors that the model has not, or wants more layers."""
    method = r.interpolation
    folder = start.base.folder if start.base else start.folder
    if patterns := method.patterns():
        check_patterns(patterns, folder)
    if method.least_layers:
        check_layers(method.kind, method.least_layers, layers_in(tensor_spans(folder)), start.phase)


def carried_to(r: Recipe, start: Checkpoint | None, data: Data | None) -> Steps[Checkpoint | None]:
    """Make a checkpoint of the model that what training does is carried to, and see that it is near to the base.

    Raises RecipeError, before anything is trained, if it is not.
    """
    if not r.interpolation.carried_to:
        return None
    job = data and data.onto and jobs.onto_job(r, data.onto, data.labels)
    made = yield from step(base, job or None, "to carry to")
    onto = jobs.as_onto(made, start) if made and start else None
    measuring = DistanceJob(start=start, onto=onto) if start and onto else None
    measured = yield from step(distance, measuring)
    if not (measured and onto):
        return None
    note("distance", check_apart(r, measured.apart))
    return onto.model_copy(update={"facts": {"apart": measured.apart}})


def _measures_norms(r: Recipe, model: FoundModel) -> bool:
    """Say whether mixes may have BatchNorm statistics to measure; an adapter leaves its base's."""
    asked = r.interpolation.mixes and r.interpolation.batch_norm == "measured"
    return asked and model.form == "dense" and has_batch_norm(model.folder)


def shown(evidence: Evidence | None) -> Steps[Report | None]:
    """Write the page."""
    return (yield from step(report, evidence and ReportJob(evidence=evidence)))


def publish(evidence: Evidence | None) -> Steps[Outcome | None]:
    """Write the page, and publish the choice if the gates agree."""
    page = yield from shown(evidence)
    result = yield from step(register, evidence and page and RegisterJob(evidence=evidence, report=page))
    return Outcome(evidence, page, result) if evidence and page and result else None


def _positions(model: Path, prompt: int = 0) -> int | None:
    """Return how many tokens a model reads behind a prompt of so many places; None: without a limit."""
    from ftlib.models.limits import limits_of  # loads torch

    positions = limits_of(model).positions
    return None if positions is None else positions - prompt
