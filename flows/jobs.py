"""Make each stage's job of the recipe and what earlier stages made. `flows.steps` says their order."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from ftlib.config import Split
from ftlib.data.datasets import PreparedDataset, RawDataset
from ftlib.data.forgotten import ForgetRequest, excluded
from ftlib.data.listed import FileVersion
from ftlib.errors import ModelError, RecipeError
from ftlib.evaluation.measured import EvalReport, KLToStart
from ftlib.evaluation.principle_facts import RevisedDataset
from ftlib.evaluation.reward_models import weights_of
from ftlib.kinds.kind import KINDS
from ftlib.merging.candidates import Candidate, Candidates
from ftlib.merging.siblings import find_sibling, named_apart
from ftlib.models.adapter import ANYWHERE, Bases, adapter_digest, find_any
from ftlib.models.checkpoint import Base, Checkpoint, FoundModel
from ftlib.published.lineage import called
from ftlib.recipe.recipe import Recipe
from ftlib.registry import ModelRegistry
from ftlib.registry.publish import CarriedFisher
from ftlib.retraining.training_rows import UsedRows
from ftlib.stages.answer import AnswerJob
from ftlib.stages.base import BaseJob, TaskHead
from ftlib.stages.batch_norm import BatchNormJob
from ftlib.stages.diverge import DivergeJob
from ftlib.stages.evaluate import EvaluateJob
from ftlib.stages.fisher import FisherJob
from ftlib.stages.ingest import IngestJob
from ftlib.stages.interpolate import InterpolateJob
from ftlib.stages.preprocess import Guard, PreprocessJob
from ftlib.stages.prune import PruneJob
from ftlib.stages.quantize import QuantizeJob
from ftlib.stages.quote import QuoteJob
from ftlib.stages.revise import ReviseJob
from ftlib.stages.score import MEASURED, ScoreJob
from ftlib.stages.select import SelectJob
from ftlib.stages.thin import ThinJob
from ftlib.stages.train import TrainJob
from ftlib.stages.uphold import UpholdJob
from ftlib.training.fisher import Fisher
from ftlib.training.mixture import Mixture
from ftlib.training.penalties.base import Kept
from ftlib.training.phase import Phase
from ftlib.training.precision import resolve_precision
from ftlib.training.principles import read_principles
from ftlib.workspace import Workspace

NO_TASKS: Mapping[str, tuple[str, ...]] = MappingProxyType({})


def ingest_job(
    recipe: Recipe, name: str, files: tuple[FileVersion, ...] | None = None, forgotten: Sequence[ForgetRequest] = ()
) -> IngestJob:
    """Say what to ingest: these files (`ftlib.data.sources.pins.pin`), or the source's as they are now.

    `forgotten` is what the work place was asked to forget.
    """
    dataset = recipe.datasets[name]
    return IngestJob(
        name=name,
        source=dataset.source,
        files=dataset.source.pin() if files is None else files,
        limits=dataset.limits,
        key=dataset.key,
        updated=dataset.updated,
        columns=dataset.columns,
        personal_data=dataset.personal_data,
        excluded=excluded(forgotten, name) if dataset.key else (),
        compute=recipe.compute,
    )


def preprocess_job(
    recipe: Recipe, name: str, raw: Mapping[str, RawDataset], model: FoundModel, used: UsedRows | None = None
) -> PreprocessJob:
    """Say what to prepare; rows that train are kept apart from every other dataset that is evaluated."""
    trains = name in recipe.training_datasets()
    others = [other for other in recipe.evaluation_datasets() if trains and other != name]
    return PreprocessJob(
        name=name,
        raw=raw[name],
        dataset=recipe.datasets[name],
        model=model,
        tokenizer=model.tokenizer,
        reads=model.reads,
        guards=tuple(Guard(raw=raw[other], dataset=recipe.datasets[other]) for other in others),
        trains=trains,
        used=used,
        compute=recipe.compute,
    )


def base_job(
    recipe: Recipe, model: FoundModel, labels: tuple[str, ...], tasks: Mapping[str, tuple[str, ...]] = NO_TASKS
) -> BaseJob:
    """Say where training starts: a head for every label that the first phases' rows name, or one for every task."""
    views = {task: recipe.of_task(task) for task in tasks}
    heads = {task: TaskHead(kind=one.kind(one.phases[0]), labels=tasks[task]) for task, one in views.items()}
    return _head_job(recipe, recipe.phases[0], model, labels).model_copy(update={"tasks": heads})


def head_job(recipe: Recipe, phase: Phase, end: Checkpoint, labels: tuple[str, ...]) -> BaseJob:
    """Say where a phase starts that takes another head than the one before, which ended in `end`."""
    return _head_job(recipe, phase, end.as_found(), labels)


def with_head(made: Checkpoint, phase: Phase, end: Checkpoint) -> Checkpoint:
    """Give what `head_job` made a name of its own, and the parent that its body is of."""
    return made.model_copy(update={"phase": f"{phase.name}-start", "parent": end.weights})


def _head_job(recipe: Recipe, phase: Phase, model: FoundModel, labels: tuple[str, ...]) -> BaseJob:
    kind = recipe.kind(phase)
    return BaseJob(model=model, kind=kind, labels=labels if KINDS[kind].labeled else (), seed=recipe.seed)


def prune_job(recipe: Recipe, start: Checkpoint, prepared: Mapping[str, PreparedDataset]) -> PruneJob:
    """Say which layers' influence to measure, and how many of them go."""
    assert recipe.prune is not None
    data = prepared[recipe.prune.dataset]
    return PruneJob(start=start, data=data, prune=recipe.prune, seed=recipe.seed, compute=recipe.compute)


def quantize_job(recipe: Recipe, phase: Phase, start: Checkpoint) -> QuantizeJob:
    """Say how what a phase starts from is rounded."""
    assert phase.tuning.quantization
    return QuantizeJob(start=start, kind=recipe.kind(phase), quantization=phase.tuning.quantization)


def train_job(
    recipe: Recipe,
    phase: Phase,
    trail: Sequence[Checkpoint],
    prepared: Mapping[str, PreparedDataset],
    companions: Mapping[str, FoundModel],
    seed: int | None = None,
    fisher: Fisher | None = None,
) -> TrainJob:
    """Say what one phase trains, with the precision settled for this machine; `seed` instead of the recipe's.

    It starts at the end of `trail`; a companion is a model that was found, or an earlier phase's end. `fisher` is what
    its penalty reads, if it does.
    """
    parts = tuple(prepared[name] for name in phase.parts)
    beside = beside_phase(phase, trail, companions)
    return TrainJob(
        start=trail[-1],
        data=parts[0] if len(parts) == 1 else Mixture(parts=parts),
        tasks=tuple(recipe.datasets[name].task for name in phase.parts) if recipe.tasks else (),
        # What frozen models and principles make of the rows is told by their bytes instead.
        phase=phase.model_copy(update={"companions": {}, "scores": {}, "answers": None, "principles": None}),
        companions={name: beside[name] for name in phase.companions},
        scored_by_start=tuple(sorted(name for name in phase.scores if beside[name].weights == trail[-1].weights)),
        precision=resolve_precision(phase, recipe.compute),
        seed=recipe.seed if seed is None else seed,
        compute=recipe.compute,
        fisher=fisher,
    )


def thin_job(recipe: Recipe, data: PreparedDataset, share: float, seed: int | None) -> ThinJob:
    """Say which share of a dataset's training rows to take; `seed` instead of the recipe's."""
    return ThinJob(data=data, share=share, seed=recipe.seed if seed is None else seed)


def with_added_rows(phase: Phase, rows: tuple[int, ...]) -> Phase:
    """Tell a phase's tuning which tokens are new; without any the phase stays as it is."""
    return phase.model_copy(update={"tuning": phase.tuning.with_added_rows(rows)}) if rows else phase


def fisher_job(
    recipe: Recipe, kept: Kept | CarriedFisher, start: Checkpoint | Candidate, prepared: Mapping[str, PreparedDataset]
) -> FisherJob:
    """Say where and on which rows to measure a Fisher information."""
    names = tuple(sorted(kept.datasets))
    return FisherJob(
        start=start,
        data=tuple(prepared[name] for name in names),
        names=names,
        rows=kept.rows,
        seed=recipe.seed,
        compute=recipe.compute,
    )


def find_asked(recipe: Recipe) -> None:
    """Look for the models that metrics ask. Raises ModelError, behind the metric's name, for one that is not there."""
    for name, evaluation in recipe.evaluations.items():
        for metric in evaluation.metrics:
            try:
                weights_of(metric.asks)
            except ModelError as error:
                raise ModelError(f"evaluations.{name}: {metric.name!r}: {error}") from error


def found_companions(recipe: Recipe, work: Workspace) -> dict[str, dict[str, FoundModel]]:
    """Find the phases' companions that are models from elsewhere, by phase and name, in any form. Raises ModelError."""
    return {
        phase.name: {
            name: find_any(companion.model, bases(recipe, work))
            for name, companion in phase.beside.items()
            if companion.model
        }
        for phase in recipe.phases
        if phase.beside
    }


def beside_phase(
    phase: Phase, trail: Sequence[Checkpoint], elsewhere: Mapping[str, FoundModel]
) -> dict[str, FoundModel | Checkpoint]:
    """Return the frozen models that have a part in a phase, by name: models that were found, or earlier phases' ends.

    `trail` has all checkpoints that come before, and may have more. An end that was rounded for the phase to start from
    anchors it as it was rounded: it is the adapter that the policy is kept near, not what rounding did.
    """
    ends = {end.phase: end for end in trail}
    beside = {name: elsewhere.get(name) or ends[str(companion.phase)] for name, companion in phase.beside.items()}
    anchors: Sequence[str] = getattr(phase.objective, "anchors", ())
    return beside | {name: _as_rounded(beside[name], phase, trail) for name in anchors}


def _as_rounded(anchor: FoundModel | Checkpoint, phase: Phase, trail: Sequence[Checkpoint]) -> FoundModel | Checkpoint:
    """Return the checkpoint that was made of a model, rounded, for a phase to start from; the model, if none was."""
    end = next((end for end in trail if end.phase == phase.name), trail[-1])
    begins = end.parent if end.phase == phase.name else end.weights
    made = (one for one in trail if one.weights == begins and one.parent == anchor.weights)
    rounded = (one for one in made if phase.tuning.quantization and not one.trained_parameters)
    return next(rounded, anchor)


def answer_job(
    recipe: Recipe, phase: Phase, name: str, trail: Sequence[Checkpoint], data: PreparedDataset, by: FoundModel | None
) -> AnswerJob:
    """Say who writes what a phase learns of one of its datasets: a model from elsewhere, or an earlier phase's end."""
    assert phase.answers is not None
    return AnswerJob(
        name=name,
        model=by or next(end for end in trail if end.phase == phase.answers.phase),
        data=data,
        tokenizer=trail[-1].tokenizer,
        max_new_tokens=phase.answers.max_new_tokens,
        num_beams=phase.answers.num_beams,
        compute=recipe.compute,
    )


def revise_job(
    recipe: Recipe,
    phase: Phase,
    name: str,
    trail: Sequence[Checkpoint],
    data: PreparedDataset,
    raw: RawDataset,
    by: FoundModel | None,
) -> ReviseJob:
    """Say by which principles pairs are made of one of a phase's datasets; `by` is a critic from elsewhere."""
    assert phase.principles is not None
    return ReviseJob(
        name=name,
        model=trail[-1],
        critic=_critic(phase, trail, by),
        data=data,
        raw=raw,
        format=recipe.datasets[name].format,
        principles=read_principles(phase.principles.file),
        critique=phase.principles.critique,
        revision=phase.principles.revision,
        max_new_tokens=phase.principles.max_new_tokens,
        temperature=phase.principles.temperature,
        keep_cut=phase.principles.keep_cut,
        checkers=phase.principles.checkers,
        seed=recipe.seed,
        compute=recipe.compute,
    )


def uphold_job(
    recipe: Recipe,
    phase: Phase,
    name: str,
    trail: Sequence[Checkpoint],
    data: PreparedDataset,
    raw: RawDataset,
    by: FoundModel | None,
    revised: RevisedDataset,
) -> UpholdJob:
    """Say whose answers to hold against a phase's principles: its start's and its end's, the last two of `trail`."""
    assert phase.principles is not None
    critic = _critic(phase, trail[:-1], by)
    return UpholdJob(
        phase=phase.name,
        before=trail[-2],
        after=trail[-1],
        critic=critic or trail[-2],
        called=called(critic) if critic else "the model itself, as it was before",
        data=data,
        raw=raw,
        format=recipe.datasets[name].format,
        drafted=revised.principles,
        critique=phase.principles.critique,
        max_new_tokens=phase.principles.max_new_tokens,
        temperature=phase.principles.temperature,
        checkers=phase.principles.checkers,
        seed=recipe.seed,
        compute=recipe.compute,
    )


def _critic(phase: Phase, trail: Sequence[Checkpoint], by: FoundModel | None) -> FoundModel | Checkpoint | None:
    """Return who holds drafts against principles; None for the model that drafts."""
    critic = phase.principles and phase.principles.critic
    if not critic:
        return None
    return by or next(end for end in trail if end.phase == critic.phase)


def score_job(
    recipe: Recipe,
    phase: Phase,
    name: str,
    trail: Sequence[Checkpoint],
    data: PreparedDataset,
    models: Mapping[str, FoundModel],
) -> ScoreJob:
    """Say which of a phase's `scores` to compute for one of its datasets."""
    return ScoreJob(
        name=name,
        model=beside_phase(phase, trail, models)[name],
        data=data,
        tokenizer=trail[-1].tokenizer,
        labels=trail[-1].labels,
        precision=resolve_precision(phase, recipe.compute),
        compute=recipe.compute,
    )


def quote_job(recipe: Recipe, name: str, data: PreparedDataset, raw: RawDataset) -> QuoteJob:
    """Say whose prompts a reward or a judge reads: `data` is what a dataset's rows were made."""
    return QuoteJob(name=name, data=data, raw=raw, format=recipe.datasets[name].format)


def reference_job(
    recipe: Recipe, name: str, trail: Sequence[Checkpoint], prepared: Mapping[str, PreparedDataset]
) -> ScoreJob:
    """Say who an evaluation's rewards are measured against, and on which rows; `trail` is empty outside a run.

    Raises RecipeError for the end of a phase that is not there, ModelError for a model that is not.
    """
    evaluation = recipe.evaluations[name]
    companion, data = evaluation.reference, prepared[evaluation.dataset]
    assert companion is not None
    model: Checkpoint | FoundModel | None = next((end for end in trail if end.phase == companion.phase), None)
    if model is None:
        given = recipe.model if companion.phase == "base" else companion.model
        if given is None:
            raise RecipeError(
                f"evaluations.{name}.reference: {companion.phase!r} is the end of a phase, which only a run makes; "
                "give `model`, a folder that was published of it"
            )
        model = find_any(given, ANYWHERE)
    return ScoreJob(
        name="reference",
        model=_as_rounded(model, recipe.phases[-1], trail) if trail else model,
        data=data,
        tokenizer=data.tokenizer,
        labels=(),
        precision="fp32",  # as evaluations ask
        splits=MEASURED,
        compute=recipe.compute,
    )


def bases(recipe: Recipe, work: Workspace) -> Bases:
    """Say where the models that adapters stand on are looked for: versions, in the recipe's registry."""
    return Bases(version=lambda spec: ModelRegistry(recipe.publish.to.store()).folder_of(spec, work.root / "bases"))


def found_siblings(recipe: Recipe, work: Workspace) -> list[Checkpoint]:
    """Find the checkpoints from elsewhere that the interpolation takes in. Raises ModelError or StorageError."""
    if not recipe.interpolation.siblings:
        return []
    registry = ModelRegistry(recipe.publish.to.store())
    found = [find_sibling(spec, registry, work.root / "versions") for spec in recipe.interpolation.siblings]
    return named_apart(found, recipe.phases[-1].name)


def sibling_of(checkpoint: Checkpoint, seed: int) -> Checkpoint:
    """Give a fine-tune of the last phase with another seed a name of its own."""
    return checkpoint.model_copy(update={"phase": f"{checkpoint.phase}-seed{seed}"})


def found_onto(recipe: Recipe, work: Workspace) -> FoundModel | None:
    """Find the model that what training did is carried to, where the interpolation does so. Raises ModelError."""
    onto = recipe.interpolation.carried_to
    return find_any(onto.model, bases(recipe, work)) if onto else None


def onto_job(recipe: Recipe, onto: FoundModel, labels: tuple[str, ...]) -> BaseJob:
    """Say what is carried to: that model, with the head that the phases' rows want."""
    return _head_job(recipe, recipe.phases[0], onto, labels)


def as_onto(made: Checkpoint, start: Checkpoint) -> Checkpoint:
    """Give what `onto_job` made a name of its own; it is asked the base's rows, whose tokens are its own too."""
    return made.model_copy(update={"phase": "onto", "tokenizer": start.tokenizer})


def interpolate_job(
    recipe: Recipe,
    trail: Sequence[Checkpoint],
    siblings: Sequence[Checkpoint],
    onto: Checkpoint | None = None,
    found: FoundModel | None = None,
) -> InterpolateJob:
    """Say which candidates to name first, before any is measured; `found` is the model that `onto` was made of."""
    start, end = trail[-2:]
    if recipe.interpolation.start:
        start = end.at(recipe.interpolation.start)
    return InterpolateJob(
        start=start,
        end=end,
        siblings=tuple(siblings),
        onto=onto,
        carried=_over(onto, found, end) if onto and found and end.form == "adapter" else None,
        interpolation=recipe.interpolation,
    )


def _over(onto: Checkpoint, found: FoundModel, end: Checkpoint) -> Checkpoint:
    """Return an adapter over another model than it was trained over."""
    base = Base(name=found.name, weights=found.weights, uri=found.uri)
    weights = adapter_digest(end.folder, base)
    named = {"phase": f"{end.phase}-on-onto", "parent": onto.weights}
    return end.model_copy(update={"base": base, "weights": weights, **named})


def batch_norm_job(
    recipe: Recipe, members: Sequence[Candidate], prepared: Mapping[str, PreparedDataset]
) -> BatchNormJob:
    """Say whose BatchNorm statistics to measure: on rows that the last phase trains on."""
    shares = recipe.phases[-1].shares(prepared)
    return BatchNormJob(
        candidates=tuple(members),
        data=tuple(prepared[name] for name in shares),
        shares=tuple(shares.values()),
        rows=recipe.interpolation.batch_norm_rows,
        seed=recipe.seed,
        compute=recipe.compute,
    )


def evaluate_job(
    recipe: Recipe,
    name: str,
    members: Sequence[Candidate],
    prepared: Mapping[str, PreparedDataset],
    split: Split,
    referenced: Mapping[str, PreparedDataset] = MappingProxyType({}),
) -> EvaluateJob:
    """Say what to measure: every member on one split of one evaluation, whose rows may hold what a reference says."""
    evaluation = recipe.evaluations[name]
    task = recipe.datasets[evaluation.dataset].task
    return EvaluateJob(
        name=name,
        evaluation=evaluation.model_copy(update={"reference": None}),  # the rows hold what it says
        asked={metric.name: weights_of(metric.asks) for metric in evaluation.metrics if metric.asks},
        candidates=tuple(member.of_task(task) for member in members),
        data=referenced.get(name, prepared[evaluation.dataset]),
        split=split,
        seed=recipe.seed,
        compute=recipe.compute,
    )


def diverge_job(
    recipe: Recipe, candidates: Candidates, sweep: Sequence[EvalReport], prepared: Mapping[str, PreparedDataset]
) -> DivergeJob:
    """Say whose distance from the start to measure, and on which rows: those that the rule names."""
    name = (recipe.select.divergence or "").partition("/")[0]
    evaluation = recipe.evaluations[name]
    task = recipe.datasets[evaluation.dataset].task
    return DivergeJob(
        name=name,
        evaluation=evaluation,
        candidates=candidates.model_copy(update={"members": tuple(m.of_task(task) for m in candidates.members)}),
        reports=tuple(report for report in sweep if any(cell.evaluation == name for cell in report.measured)),
        data=prepared[evaluation.dataset],
        seed=recipe.seed,
        compute=recipe.compute,
    )


def select_job(
    recipe: Recipe, candidates: Candidates, sweep: Sequence[EvalReport], kl: KLToStart | None = None
) -> SelectJob:
    """Say which of the measured candidates to choose from, and how."""
    return SelectJob(
        candidates=candidates,
        reports=tuple(sweep),
        evaluations=recipe.evaluations,
        select=recipe.select,
        seed=recipe.seed,
        kl=kl,
    )
