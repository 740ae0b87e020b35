"""Make the jobs from rows to the end of the last phase, of the recipe and what earlier stages made.

`flows.run.steps` says their order; `companion_jobs` and `candidate_jobs` have the others.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from flows.run.models_beside import beside_phase
from ftlib.data.datasets import PreparedDataset, RawDataset
from ftlib.data.forgotten import ForgetRequest, excluded
from ftlib.data.formats import Format
from ftlib.data.listed import FileVersion
from ftlib.kinds.kind import KINDS
from ftlib.merging.candidates import Candidate
from ftlib.models.checkpoint import Checkpoint, FoundModel
from ftlib.recipe.recipe import Recipe
from ftlib.registry.publish import CarriedFisher
from ftlib.retraining.training_rows import UsedRows
from ftlib.stages.base import BaseJob, TaskHead
from ftlib.stages.fisher import FisherJob
from ftlib.stages.ingest import IngestJob
from ftlib.stages.preprocess import Guard, PreprocessJob
from ftlib.stages.prune import PruneJob
from ftlib.stages.quantize import QuantizeJob
from ftlib.stages.thin import ThinJob
from ftlib.stages.train import TrainJob
from ftlib.training.fisher.record import Fisher
from ftlib.training.mixture import Mixture
from ftlib.training.penalties.base import Kept
from ftlib.training.phase import Phase
from ftlib.training.precision import resolve_precision

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
    """Say where training starts: a head for every label that the rows name, or one for every task."""
    views = {task: recipe.of_task(task) for task in tasks}
    heads = {task: TaskHead(kind=one.kind(one.phases[0]), labels=tasks[task]) for task, one in views.items()}
    return _head_job(recipe, recipe.chain[0], model, labels).model_copy(update={"tasks": heads})


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
    companions: Mapping[str, FoundModel | Checkpoint],
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
        phase=phase.model_copy(
            update={"companions": {}, "scores": {}, "answers": None, "principles": None, "start": None}
        ),
        companions={name: beside[name] for name in phase.companions},
        formats=_formats(recipe, phase),
        scored_by_start=tuple(sorted(name for name in phase.scores if beside[name].weights == trail[-1].weights)),
        precision=resolve_precision(phase, recipe.compute),
        seed=recipe.seed if seed is None else seed,
        compute=recipe.compute,
        fisher=fisher,
    )


def _formats(recipe: Recipe, phase: Phase) -> dict[str, Format]:
    """Return how the companions were taught to read texts that earlier phases of the recipe made of other rows."""
    made = {one.name: one for one in recipe.phases}
    named = {name: made[one.phase] for name, one in phase.companions.items() if one.phase in made}
    apart = {name: one for name, one in named.items() if recipe.kind(one) != recipe.kind(phase)}
    return {name: recipe.published_dataset(one).format for name, one in apart.items()}


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


def sibling_of(checkpoint: Checkpoint, seed: int) -> Checkpoint:
    """Give a fine-tune of the last phase with another seed a name of its own."""
    return checkpoint.model_copy(update={"phase": f"{checkpoint.phase}-seed{seed}"})


def onto_job(recipe: Recipe, onto: FoundModel, labels: tuple[str, ...]) -> BaseJob:
    """Say what is carried to: that model, with the head that the phases' rows want."""
    return _head_job(recipe, recipe.phases[0], onto, labels)


def as_onto(made: Checkpoint, start: Checkpoint) -> Checkpoint:
    """Give what `onto_job` made a name of its own; it is asked the base's rows, whose tokens are its own too."""
    return made.model_copy(update={"phase": "onto", "tokenizer": start.tokenizer})
