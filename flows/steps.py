"""What comes after what, written once: `steps` yields the jobs of a run in order, and is sent what their stages made.

`finetune` and `retrain` run each step as a task; `plan` looks each up in the work folder, and answers None where it is
not made yet: then what follows has no job. So every part here says what it needs, and does without it.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, TypeVar

from flows import candidate_jobs, companion_jobs, jobs, models_beside
from ftlib.config import REPORT, SELECTION, Config, Split
from ftlib.data.datasets import PreparedDataset, RawDataset
from ftlib.data.forgotten import ForgetRequest, read_requests
from ftlib.data.listed import FileVersion
from ftlib.data.sources.pins import pin
from ftlib.evaluation.learning_curve import CurveEvidence, ShareEnd, of_share
from ftlib.evaluation.measured import EvalReport, KLToStart
from ftlib.evaluation.principle_facts import RevisedDataset, Upheld
from ftlib.evaluation.selection import Selection
from ftlib.merging.batch_norm import has_batch_norm
from ftlib.merging.candidates import Candidate, Candidates
from ftlib.merging.plan import check_layers, check_patterns
from ftlib.models.adapter import find_any
from ftlib.models.checkpoint import Checkpoint, Form, FoundModel
from ftlib.models.folder import tensor_spans
from ftlib.models.parameter_names import layers_in
from ftlib.progress import note
from ftlib.recipe.evidence import Evidence
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
from ftlib.registry.outcome import ModelVersion, Refusal
from ftlib.report.report import Report
from ftlib.retraining.training_rows import UsedRows
from ftlib.stages.add_tokens import AddTokensJob, add_tokens
from ftlib.stages.answer import answer
from ftlib.stages.base import base
from ftlib.stages.batch_norm import batch_norm
from ftlib.stages.distance import DistanceJob, distance
from ftlib.stages.diverge import diverge
from ftlib.stages.evaluate import evaluate
from ftlib.stages.fisher import fisher
from ftlib.stages.ingest import ingest
from ftlib.stages.interpolate import InterpolateJob, interpolate, scores_so_far
from ftlib.stages.preprocess import preprocess
from ftlib.stages.prune import prune
from ftlib.stages.quantize import quantize
from ftlib.stages.quote import quote
from ftlib.stages.register import RegisterJob, register
from ftlib.stages.report import ReportJob, report
from ftlib.stages.revise import revise
from ftlib.stages.score import score
from ftlib.stages.select import select
from ftlib.stages.step import Steps, step
from ftlib.stages.thin import thin
from ftlib.stages.train import runs_on_ray, train
from ftlib.stages.uphold import uphold
from ftlib.training.fisher import Fisher, read_carried
from ftlib.training.phase import ANSWERS, CRITIC, Phase
from ftlib.workspace import Workspace

T = TypeVar("T")


class Inputs(NamedTuple):
    """What a run is made of beside its recipe, as it was when the run began."""

    model: FoundModel
    files: Mapping[str, tuple[FileVersion, ...]]
    """What each dataset's source listed."""
    used: Mapping[str, UsedRows] = MappingProxyType({})
    """Which rows of a dataset train; all of one that is not named."""
    names: Sequence[str] = ()
    """The labels of a version that is to be replaced: they are called as there."""
    companions: Mapping[str, Mapping[str, FoundModel]] = MappingProxyType({})
    """The phases' companions that are models from elsewhere, by phase and name."""
    task_names: Mapping[str, Sequence[str]] = MappingProxyType({})
    """As `names`, of each of the version's tasks."""
    onto: FoundModel | None = None
    """The model that what training did is carried to, where the interpolation does so."""
    forgotten: Sequence[ForgetRequest] = ()
    """What the work place was asked to forget: rows that are left out of what is ingested."""


class Data(Config):
    """What the phases train and are measured on."""

    model: FoundModel
    raw: dict[str, RawDataset]
    prepared: dict[str, PreparedDataset]
    labels: tuple[str, ...]
    """The labels that training sees; empty where there are none, or each task has its own."""
    tasks: dict[str, tuple[str, ...]] = {}
    """The labels of every task, where there are several."""
    companions: dict[str, dict[str, FoundModel]] = {}
    """See `Inputs`."""
    onto: FoundModel | None = None
    """See `Inputs`."""
    added_rows: tuple[int, ...] = ()
    """The numbers of the tokens that the recipe adds."""


class Outcome(NamedTuple):
    """What a run comes to."""

    evidence: Evidence
    report: Report
    result: ModelVersion | Refusal


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
    check_registry(r)
    model, companions = find_any(r.model, models_beside.bases(r, work)), models_beside.found_companions(r, work)
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
    raw = yield from ingested(r, given.files, given.forgotten)
    prepared: dict[str, PreparedDataset] = {}
    for name in r.datasets:
        job = jobs.preprocess_job(r, name, raw, model, given.used.get(name)) if raw and model else None
        if models := (yield from step(preprocess, job, name, on_ray=r.compute.prepares_on_ray)):
            prepared[name] = models
    if raw is None or model is None or len(prepared) < len(r.datasets):
        return None
    labels = check_labels(r, prepared, given.names)
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
    companions = {phase: dict(models) for phase, models in given.companions.items()}
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


def find_best(r: Recipe, work: Workspace, data: Data | None, model: FoundModel) -> Steps[Evidence | None]:
    """Train every phase of a model, interpolate, measure, choose, and measure the choice beside every phase's end."""
    elsewhere = models_beside.found_siblings(r, work) if data else []
    start = yield from step(base, data and jobs.base_job(r, data.model, data.labels, data.tasks))
    if start:
        check_forms(r, start.form, elsewhere, model.base.quantization if model.base else None)
        _check_named_tensors(r, start)
    onto = yield from carried_to(r, start, data)
    trail, form, answering = [start], model.form, 0
    rows, kept, begun = data, list[Upheld | None](), dict[str, tuple[int, Form]]()
    if r.prune:
        trail.append((yield from step(prune, start and data and jobs.prune_job(r, start, data.prepared))))
    for phase in r.phases:
        begun[phase.name] = len(trail), form
        answering = len(trail) if r.takes_new_head(phase) else answering
        trail, rows, made = yield from one_phase(r, phase, trail, form, data)
        kept += yield from upheld(r, phase, whole(trail), data, made)
        form = phase.tuning.leaves or form
    siblings: list[Checkpoint | None] = [*elsewhere]
    for seed in r.interpolation.seeds:
        again = yield from trained(r, r.phases[-1], trail[:-1], rows, seed)
        siblings.append(again and jobs.sibling_of(again, seed))
    norms = _measures_norms(r, model)
    named = named_by(r, whole(trail), whole(siblings), onto, data)
    beside = yield from enriched(r, whole(trail), data and data.prepared, data and data.raw)
    swept = yield from sweep(r, work, named, data and data.prepared, beside, norms=norms)
    selection = yield from chosen(r, swept, data and data.prepared)
    checkpoints = whole(trail)
    ends = checkpoints and checkpoints[answering:]
    measured_too = [*(ends or ()), *([onto] if onto else [])]
    finalists = [*map(Candidate.of, measured_too), selection.chosen] if ends and selection else None
    carried: Fisher | None = None
    if r.publish.fisher:
        at, rows = selection and selection.chosen, data and data.prepared
        carrying = jobs.fisher_job(r, r.publish.fisher, at, rows) if at and rows else None
        carried = yield from step(fisher, carrying, "to publish", on_ray=r.compute.most_workers > 0)
    final = yield from measured(r, finalists, data and data.prepared, REPORT, len(trail) - answering + 1, beside)
    length, form = begun[r.learning_phases[0].name]
    curve = yield from learnt_of_shares(r, trail[:length], form, data, beside)
    carries = (carried or not r.publish.fisher) and (curve or not r.learning_curve)
    if not (data and checkpoints and swept and selection and final and carries and all(kept)):
        return None
    return Evidence(
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
            phase.name: models_beside.beside_phase(phase, checkpoints, data.companions.get(phase.name, {}))
            for phase in r.phases
            if phase.beside
        },
        fisher=carried,
        onto=data.onto,
        upheld=tuple(one for one in kept if one),
        curve=curve,
    )


def one_phase(
    r: Recipe,
    phase: Phase,
    trail: Sequence[Checkpoint | None],
    form: Form,
    data: Data | None,
    *,
    seed: int | None = None,
    called: str = "",
) -> Steps[tuple[list[Checkpoint | None], Data | None, dict[str, RevisedDataset]]]:
    """Train one phase from the trail's end, which is of a form, behind the head and the rounding that it wants.

    Return the trail with what that made, what the phase learnt of, and pairs as `revised` returns them. `called` is
    another name for the phase, by which its steps and its end are called.
    """
    ends, named = [*trail], phase
    if called:
        named = phase.model_copy(update={"name": called})
        data = data and data.model_copy(
            update={"companions": {**data.companions, called: data.companions.get(phase.name, {})}}
        )
    if r.takes_new_head(phase):
        ends.append((yield from given_head(r, named, ends[-1], data)))
    if phase.tuning.quantization and form == "dense":
        job = ends[-1] and jobs.quantize_job(r, named, ends[-1])
        ends.append((yield from step(quantize, job, f"for {named.name}")))
    rows, made = yield from revised(r, named, whole(ends), data)
    ends.append((yield from trained(r, named, ends, rows, seed)))
    return ends, rows, made


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


def _measures_norms(r: Recipe, model: FoundModel) -> bool:
    """Say whether mixes may have BatchNorm statistics to measure; an adapter leaves its base's."""
    asked = r.interpolation.mixes and r.interpolation.batch_norm == "measured"
    return asked and model.form == "dense" and has_batch_norm(model.folder)


def given_head(r: Recipe, phase: Phase, end: Checkpoint | None, data: Data | None) -> Steps[Checkpoint | None]:
    """Give the body that a phase ended with the head that the next one trains."""
    made = yield from step(base, jobs.head_job(r, phase, end, data.labels) if end and data else None, phase.name)
    return jobs.with_head(made, phase, end) if made and end else None


def trained(
    r: Recipe, phase: Phase, trail: Sequence[Checkpoint | None], data: Data | None, seed: int | None = None
) -> Steps[Checkpoint | None]:
    """Train one phase from the trail's end; with another seed, a fine-tune beside it."""
    ends = whole(trail)
    companions = data.companions.get(phase.name, {}) if data else {}
    prepared = yield from answered(r, phase, ends, data and data.prepared, companions.get(ANSWERS))
    prepared = yield from scored(r, phase, ends, prepared, companions)
    if getattr(phase.objective, "writes", False):
        for name in phase.parts:
            made = yield from quoted(r, name, prepared[name] if prepared else None, data and data.raw)
            prepared = {**prepared, name: made} if prepared and made else None
    which = phase.name if seed is None else f"{phase.name}-seed{seed}"
    weighed: Fisher | None = None
    kept = phase.penalty.keeps if phase.penalty else None
    if kept and kept.datasets:
        weighing = jobs.fisher_job(r, kept, ends[-1], prepared) if ends and prepared else None
        weighed = yield from step(fisher, weighing, f"for {which}", on_ray=runs_on_ray(phase, r.compute))
    elif kept and data:
        weighed = read_carried(data.model)
    ready = weighed is not None or kept is None
    phase = jobs.with_added_rows(phase, data.added_rows if data else ())
    job = jobs.train_job(r, phase, ends, prepared, companions, seed, weighed) if ends and prepared and ready else None
    return (yield from step(train, job, which, on_ray=runs_on_ray(phase, r.compute)))


def revised(
    r: Recipe, phase: Phase, trail: Sequence[Checkpoint] | None, data: Data | None
) -> Steps[tuple[Data | None, dict[str, RevisedDataset]]]:
    """Return what a phase trains on: with pairs of its model's own drafts and revisions, where it has principles.

    Beside it are those pairs, by the dataset whose prompts they answer.
    """
    pairs: dict[str, RevisedDataset] = {}
    by = data.companions.get(phase.name, {}).get(CRITIC) if data else None
    names = [*phase.parts] if phase.principles else []
    for name in names:
        job = (
            companion_jobs.revise_job(r, phase, name, trail, data.prepared[name], data.raw[name], by)
            if trail and data
            else None
        )
        if made := (yield from step(revise, job, f"{name} for {phase.name}", on_ray=r.compute.infers_on_ray)):
            pairs[name] = made
    if data is None or len(pairs) < len(names):
        return None, pairs
    learnt = {name: made.as_prepared() for name, made in pairs.items()}
    return data.model_copy(update={"prepared": {**data.prepared, **learnt}}), pairs


def upheld(
    r: Recipe,
    phase: Phase,
    trail: Sequence[Checkpoint] | None,
    data: Data | None,
    pairs: Mapping[str, RevisedDataset],
) -> Steps[list[Upheld | None]]:
    """Hold what a phase's start and its end answer to held-out prompts against its principles."""
    held: list[Upheld | None] = []
    by = data.companions.get(phase.name, {}).get(CRITIC) if data else None
    for name in phase.parts if phase.principles else ():
        job = (
            companion_jobs.uphold_job(r, phase, name, trail, data.prepared[name], data.raw[name], by, pairs[name])
            if trail and data and name in pairs
            else None
        )
        held.append((yield from step(uphold, job, f"{name} for {phase.name}", on_ray=r.compute.infers_on_ray)))
    return held


def answered(
    r: Recipe,
    phase: Phase,
    trail: Sequence[Checkpoint] | None,
    prepared: Mapping[str, PreparedDataset] | None,
    by: FoundModel | None,
) -> Steps[Mapping[str, PreparedDataset] | None]:
    """Give a phase's datasets the answers that a frozen model writes, where it learns from those."""
    for name in phase.parts if phase.answers else ():
        job = companion_jobs.answer_job(r, phase, name, trail, prepared[name], by) if trail and prepared else None
        made = yield from step(answer, job, f"{name} for {phase.name}", on_ray=r.compute.infers_on_ray)
        prepared = {**prepared, name: made} if prepared and made else None
    return prepared


def scored(
    r: Recipe,
    phase: Phase,
    trail: Sequence[Checkpoint] | None,
    prepared: Mapping[str, PreparedDataset] | None,
    elsewhere: Mapping[str, FoundModel],
) -> Steps[Mapping[str, PreparedDataset] | None]:
    """Give a phase's datasets the columns that its objective reads of frozen models; most have none."""
    for name, part, which in scorings(phase):
        job = companion_jobs.score_job(r, phase, name, trail, prepared[part], elsewhere) if trail and prepared else None
        made = yield from step(score, job, which, on_ray=r.compute.infers_on_ray)
        prepared = {**prepared, part: made} if prepared and made else None
    return prepared


def scorings(phase: Phase) -> list[tuple[str, str, str]]:
    """Return the name of each scorer, the dataset that it scores, and what that step is called."""
    return [(name, part, f"{part} by {name} for {phase.name}") for name in phase.scores for part in phase.parts]


def quoted(
    r: Recipe, name: str, data: PreparedDataset | None, raw: Mapping[str, RawDataset] | None
) -> Steps[PreparedDataset | None]:
    """Give a dataset's rows their prompts as texts, where what is written behind them is graded."""
    return (yield from step(quote, companion_jobs.quote_job(r, name, data, raw[name]) if data and raw else None, name))


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


def shown(evidence: Evidence | None) -> Steps[Report | None]:
    """Write the page."""
    return (yield from step(report, evidence and ReportJob(evidence=evidence)))


def publish(evidence: Evidence | None) -> Steps[Outcome | None]:
    """Write the page, and publish the choice if the gates agree."""
    page = yield from shown(evidence)
    result = yield from step(register, evidence and page and RegisterJob(evidence=evidence, report=page))
    return Outcome(evidence, page, result) if evidence and page and result else None


def whole(parts: Iterable[T | None]) -> list[T] | None:
    """Return all of them, or None if one is not made."""
    listed = list(parts)
    made = [one for one in listed if one is not None]
    return made if len(made) == len(listed) else None


def _positions(model: Path, prompt: int = 0) -> int | None:
    """Return how many tokens a model reads behind a prompt of so many places; None: without a limit."""
    from ftlib.models.limits import limits_of  # loads torch

    positions = limits_of(model).positions
    return None if positions is None else positions - prompt
