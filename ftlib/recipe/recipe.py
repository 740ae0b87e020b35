"""The recipe: one YAML file that says everything a run needs, and the check that its parts fit together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import ClassVar

from pydantic import model_validator

from ftlib.config import BatchKind, Config, Name
from ftlib.data.dataset import Dataset
from ftlib.data.formats import Format
from ftlib.data.formats.text import reads_text
from ftlib.data.splitting import SplitPolicy
from ftlib.evaluation.evaluation import Evaluation
from ftlib.evaluation.metrics import Metric
from ftlib.evaluation.selection import Select
from ftlib.kinds.kind import KINDS
from ftlib.merging.interpolation import NO_INTERPOLATION, Interpolation
from ftlib.models.added_tokens import AddedToken
from ftlib.models.checkpoint import Form, Quantization
from ftlib.models.pruning import Prune
from ftlib.models.reference import ModelRef
from ftlib.recipe.batch_misfits import batch_misfits, objectives_of
from ftlib.recipe.task_misfits import task_misfits
from ftlib.registry.publish import Publish
from ftlib.retraining.policy import Retrain
from ftlib.training.compute import Compute
from ftlib.training.phase import ANSWERS, Phase
from ftlib.training.tuning import tunings
from ftlib.training.tuning.by_peft import GOES_ON
from ftlib.urls import secrets_within


class Recipe(Config):
    """A whole run."""

    introduced: ClassVar[Mapping[str, object]] = {"prune": None, "added_tokens": ()}

    name: Name
    """What the run is called: its folder in the work folder, its lock and its page."""
    model: ModelRef
    """The base model that the first phase starts from."""
    added_tokens: tuple[AddedToken, ...] = ()
    """Tokens that the base model learns before rows are prepared: its tokenizer and its tensors have one more each."""
    datasets: dict[Name, Dataset]
    """Rows by the name that phases and evaluations call them."""
    prune: Prune | None = None
    """Which layers of the base model are removed before the first phase; null: none."""
    phases: tuple[Phase, ...]
    """Trainings, one after the other: each starts where the one before ended."""
    evaluations: dict[Name, Evaluation]
    """What is measured, by the name that rules, gates and the report call it."""
    interpolation: Interpolation = NO_INTERPOLATION
    """Which points between the last phase's start and end are candidates too; by default none."""
    select: Select
    """Which candidate is published, and what it must reach."""
    publish: Publish
    """Under which name the chosen candidate is published, and where."""
    retrain: Retrain = Retrain()
    """When `reglage retrain` trains again, and when it replaces the version in place."""
    compute: Compute = Compute()
    """Where it runs, and how fast; the result is the same."""
    seed: int = 0
    """Of every random draw: fresh heads, the order of rows, dropout, resamples."""

    @model_validator(mode="after")
    def _fits(self) -> Recipe:
        if problems := list(_misfits(self)):
            raise ValueError("\n".join(problems))
        return self

    def training_datasets(self) -> tuple[str, ...]:
        """Return the datasets whose rows some phase trains on, or is kept near, in order."""
        penalties = (phase.penalty.keeps for phase in self.phases if phase.penalty)
        kept = (name for one in penalties if one for name in one.datasets)
        return tuple(dict.fromkeys([*(name for phase in self.phases for name in phase.parts), *kept]))

    @property
    def tasks(self) -> tuple[str, ...]:
        """Return the tasks that one model learns, by name; none where one head answers all rows."""
        return tuple(sorted({dataset.task for dataset in self.datasets.values() if dataset.task is not None}))

    def of_task(self, task: str | None) -> Recipe:
        """Return what the recipe says of one task: its datasets, evaluations and phases; not a recipe to be run.

        It chooses by the recipe's metric if that is the task's, else by the task's first. Without a task it is itself.
        """
        if task is None:
            return self
        lone = {"task": None}
        datasets = {name: one.model_copy(update=lone) for name, one in self.datasets.items() if one.task == task}
        evaluations = {name: one for name, one in self.evaluations.items() if one.dataset in datasets}
        paths = [f"{name}/{metric.name}" for name, one in evaluations.items() for metric in one.metrics]
        by = self.select.by if self.select.by in paths or not paths else paths[0]
        phases = [phase.of_task(datasets, task) for phase in self.phases if {*phase.parts} & {*datasets}]
        select = self.select.model_copy(update={"by": by})
        named = {"datasets": datasets, "evaluations": evaluations, "phases": tuple(phases), "select": select}
        return self.model_copy(update=named)

    def kind(self, phase: Phase) -> BatchKind:
        """Return the kind of the batches that a phase trains on; of several tasks, that of its first part's."""
        return self.datasets[next(iter(phase.parts))].format.yields

    def takes_new_head(self, phase: Phase) -> bool:
        """Say whether a phase's batches need another head than those of the phase before it, whose body it takes."""
        i = self.phases.index(phase)
        return not self.tasks and i > 0 and not _one_model(self.kind(self.phases[i - 1]), self.kind(phase))

    @property
    def answering_phases(self) -> tuple[Phase, ...]:
        """Return the last phases, as far back as they train one head: what is measured and published answers so."""
        first = max((i for i, phase in enumerate(self.phases) if self.takes_new_head(phase)), default=0)
        return self.phases[first:]

    @property
    def answering_kind(self) -> BatchKind:
        """Return the kind of the batches that the published head is first trained on."""
        return self.kind(self.answering_phases[0])

    def answering_datasets(self) -> tuple[str, ...]:
        """Return the datasets that the published head is trained on, in order."""
        return tuple(dict.fromkeys(name for phase in self.answering_phases for name in phase.parts))

    def published_format(self) -> Format:
        """Return how the last phase's rows are laid out, as the published model is asked.

        Of a mixture, its part with the largest share.
        """
        return self.published_dataset().format

    def published_dataset(self) -> Dataset:
        """Return the dataset that the last phase trains on; of a mixture, its part with the largest share."""
        parts = self.phases[-1].parts
        return self.datasets[max(parts, key=parts.__getitem__)]

    @property
    def beams(self) -> int:
        """Return how many beginnings of an answer the published model keeps while it writes: the most measured."""
        return max((evaluation.num_beams for evaluation in self.evaluations.values()), default=1)

    def evaluation_datasets(self) -> tuple[str, ...]:
        """Return the datasets that some evaluation reads, in order."""
        return tuple(dict.fromkeys(evaluation.dataset for evaluation in self.evaluations.values()))

    def metric(self, path: str) -> tuple[str, Metric]:
        """Split `evaluation/metric` and return the evaluation's name and the metric; KeyError if there is none."""
        name, _, metric_name = path.partition("/")
        for metric in self.evaluations[name].metrics:
            if metric.name == metric_name:
                return name, metric
        raise KeyError(path)


def _misfits(recipe: Recipe) -> Iterator[str]:
    """Say which parts do not fit together: name, got, allowed."""
    yield from _secrets(recipe.model_dump(mode="json"))
    yield from _phase_misfits(recipe)
    yield from _prune_misfits(recipe)
    yield from _added_tokens_misfits(recipe)
    yield from _dataset_misfits(recipe)
    yield from _evaluation_misfits(recipe)
    yield from _select_misfits(recipe)
    yield from _interpolation_misfits(recipe)
    if recipe.compute.pack_tokens is not None and _all_there(recipe):
        yield from _packing_misfits(recipe)
    if recipe.publish.adapter and recipe.phases and end_form(recipe, "dense") == "dense":
        yield from _adapter_misfits(recipe)
    yield from form_misfits(recipe, "dense")
    for name in recipe.publish.fisher.datasets if recipe.publish.fisher else ():
        if name not in recipe.training_datasets():
            yield (
                f"publish.fisher.datasets: no phase trains on {name!r}, so the version knows nothing of its rows to "
                f"keep; there are {_these(recipe.training_datasets())}"
            )
    yield from quantization_misfits(recipe, "dense")


def _secrets(value: object) -> Iterator[str]:
    """Say where a URL gives a secret away: a recipe is copied into records, run pages and every version's lineage."""
    for path, secret in secrets_within(value):
        yield f"{path}: {secret} would be published with the recipe; leave it to the environment"


def _phase_misfits(recipe: Recipe) -> Iterator[str]:
    """Say what of the phases, their names and their models does not fit together."""
    if not recipe.phases:
        yield "phases: empty; give at least one phase"
    names = [phase.name for phase in recipe.phases]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"phases: the name {name!r} is used {names.count(name)} times; names must differ"
    if {"base", "champion"} & {*names}:
        yield "phases: 'base' and 'champion' name models that are not a phase's end; choose another name"
    for task in recipe.tasks or (None,):
        yield from _head_misfits(recipe.of_task(task))
    yield from task_misfits(recipe)
    for i, phase in enumerate(recipe.phases):
        yield from _misfits_of(recipe, phase)
        yield from _keeping_misfits(recipe, phase, first=i == 0)
        yield from _companion_misfits(recipe, phase, ("base", *(["prune"] if recipe.prune else []), *names[:i]))


def _prune_misfits(recipe: Recipe) -> Iterator[str]:
    """Say why layers cannot be removed in this run, whatever the model."""
    if recipe.prune is None:
        return
    if recipe.prune.dataset not in recipe.training_datasets():
        yield (
            f"prune.dataset: {recipe.prune.dataset!r} is no dataset that a phase trains on; there are "
            f"{_these(recipe.training_datasets())}"
        )
    elif _all_there(recipe) and recipe.phases:
        first, rows = recipe.kind(recipe.phases[0]), recipe.datasets[recipe.prune.dataset].format.yields
        if not _one_model(first, rows):
            yield (
                f"prune.dataset: rows of {recipe.prune.dataset!r} are {rows!r}, but the model that layers are removed "
                f"from is that of the first phase, of {first!r} rows; name a dataset of such rows"
            )
    if "prune" in [phase.name for phase in recipe.phases]:
        yield "phases: 'prune' names the model that layers were removed from; choose another name"
    if recipe.publish.adapter:
        yield "publish.adapter: it would stand on a model without some layers, which nobody else has; remove it"
    if recipe.retrain.start == "champion":
        yield (
            "prune: retrain.start is 'champion', which has lost its layers already and would lose as many again with "
            "every retraining; set it to base"
        )


def _added_tokens_misfits(recipe: Recipe) -> Iterator[str]:
    """Say why tokens cannot be added in this run, whatever the model, or would never learn what they mean."""
    if not recipe.added_tokens:
        return
    spelt = [one.token for one in recipe.added_tokens]
    if twice := {token for token in spelt if spelt.count(token) > 1}:
        yield f"added_tokens: {_these(twice)} is there twice; give each token once"
    if images := [name for name, data in recipe.datasets.items() if KINDS[data.format.yields].modality != "text"]:
        yield f"added_tokens: rows of {_these(images)} are images, which have no tokens; leave it out"
    if recipe.publish.adapter:
        yield "publish.adapter: it would stand on a model with more tokens, which nobody else has; remove it"
    if recipe.retrain.start == "champion":
        yield "added_tokens: retrain.start is 'champion', which has these tokens already; set it to base"
    if recipe.phases and not any(phase.tuning.moves_rows for phase in recipe.phases):
        moving = " or ".join(map(repr, tunings(lambda tuning: tuning.moves_rows)))
        yield (
            f"added_tokens: no phase trains what the tokens mean, {_these({p.tuning.kind for p in recipe.phases})} "
            f"leaves the embedding as it is; use {moving} in one of them"
        )


def _head_misfits(recipe: Recipe) -> Iterator[str]:
    """Say which phases no head can be trained by, and which head would be thrown away with the labels it learnt."""
    if not _all_there(recipe):
        return
    for phase in recipe.phases:
        kinds: set[BatchKind] = {recipe.datasets[name].format.yields for name in phase.parts}
        if not _one_model(*kinds):
            yield f"phases[{phase.name}]: one head must answer all of its batches; these are {_these(kinds)}"
    writing = {kind: KINDS[kind].decodes for kind in map(recipe.kind, recipe.phases) if KINDS[kind].language}
    if len({*writing.values()}) > 1:  # no body of two halves is one of a decoder alone
        yield f"phases: one model must answer the batches of all; these train on {_these(writing)}"
    before = recipe.phases[: len(recipe.phases) - len(recipe.answering_phases)]
    for phase in before:
        if KINDS[kind := recipe.kind(phase)].labeled:
            yield (
                f"phases[{phase.name}]: learns labels ({kind!r}) with a head that a later phase gives up for "
                f"{recipe.answering_kind!r} batches; phases with labels come last"
            )


def _all_there(recipe: Recipe) -> bool:
    """Say whether every phase's datasets are in the recipe."""
    return {*recipe.training_datasets()} <= {*recipe.datasets}


def _misfits_of(recipe: Recipe, phase: Phase) -> Iterator[str]:
    """Say what of one phase does not fit its datasets, its tuning or its companions."""
    where = f"phases[{phase.name}]"
    if absent := [name for name in phase.parts if name not in recipe.datasets]:
        field = "mixture" if phase.mixture else "dataset"
        for name in absent:
            yield f"{where}.{field}: {name!r} is not a dataset; there are {_these(recipe.datasets)}"
        return
    yield from _format_misfits(recipe, phase, where)
    if phase.penalty and (phase.tuning.makes_adapter or phase.tuning.leaves == "adapter"):
        yield (
            f"{where}.penalty: {phase.penalty.kind!r} pulls at the model's weights, got tuning {phase.tuning.kind!r}, "
            "which leaves them and trains an adapter; remove it or use full or frozen_layers"
        )
    if all(recipe.datasets[name].split.validation == 0 for name in phase.parts):
        yield from _unwatched_misfits(where, phase)
    yield from _unfit_objectives(recipe, phase, where)
    if not phase.tuning.takes_steps:
        yield from _solved_misfits(where, phase)
    yield from _compute_misfits(where, phase, recipe.compute)
    if phase.batch_norm == "updated":
        yield from _statistics_misfits(where, phase, recipe.compute)
    yield from _augmentation_misfits(recipe, phase, where)
    yield from _self_kl_misfits(recipe, phase, where)
    yield from batch_misfits(where, phase, recipe.datasets)


def _compute_misfits(where: str, phase: Phase, compute: Compute) -> Iterator[str]:
    """Say why a phase cannot be computed as it is asked."""
    if compute.activation_checkpointing != "none" and not phase.tuning.recomputes:
        yield (
            f"compute.activation_checkpointing: a layer that is computed again would see the keys of "
            f"{phase.tuning.kind!r} twice, got {compute.activation_checkpointing!r}; set it to none, or use another "
            f"tuning in phase {phase.name!r}"
        )
    if compute.sharding == "fsdp" and compute.workers > 1 and not phase.optimizer.steps_shards:
        yield (
            f"{where}.optimizer: {phase.optimizer.kind!r} steps whole matrices, but compute.sharding: fsdp gives each "
            "of the workers a part; use adamw or sgd, or set sharding to ddp"
        )


def _keeping_misfits(recipe: Recipe, phase: Phase, *, first: bool) -> Iterator[str]:
    """Say which rows a penalty cannot measure its Fisher information on, or that it would read one of other weights."""
    keeps = phase.penalty.keeps if phase.penalty else None
    if phase.penalty is None or keeps is None:
        return
    where = f"phases[{phase.name}].penalty"
    kinds: set[BatchKind] = {recipe.datasets[name].format.yields for name in phase.parts if name in recipe.datasets}
    for name in keeps.datasets:
        if name not in recipe.datasets:
            yield f"{where}.datasets: {name!r} is not a dataset; there are {_these(recipe.datasets)}"
        elif _one_model(*kinds) and not _one_model(*kinds, rows := recipe.datasets[name].format.yields):
            yield (
                f"{where}.datasets: rows of {name!r} are {rows!r}, and the phase's model answers {_these(kinds)}; name "
                "datasets of such rows"
            )
    if not keeps.datasets and not first:
        yield (
            f"{where}: the Fisher information that the base model carries is of its own weights, and only the first "
            f"phase starts there; {phase.penalty.kind!r} of a later one needs `datasets`, whose rows it is measured on"
        )
    elif not keeps.datasets and recipe.prune:  # what is left has new numbers: names and shapes would fit all the same
        yield (
            f"{where}: the Fisher information that the base model carries is of all its layers, and prune takes some; "
            f"{phase.penalty.kind!r} needs `datasets`, whose rows it is measured on behind that"
        )


def _unfit_objectives(recipe: Recipe, phase: Phase, where: str) -> Iterator[str]:
    """Say which objectives learn from batches that the tuning cannot learn from."""
    for objective in objectives_of(phase, recipe.datasets):
        if phase.tuning.fits is not None and objective.needs not in phase.tuning.fits:
            yield (
                f"{where}: {phase.tuning.kind!r} fits {_these(map(repr, phase.tuning.fits))} batches; "
                f"{objective.kind!r} learns {objective.needs!r} ones: use another tuning"
            )


def _statistics_misfits(where: str, phase: Phase, compute: Compute) -> Iterator[str]:
    """Say why statistics of a batch would depend on how it is split, which the identity of a phase does not know."""
    if not phase.tuning.takes_steps:
        yield f"{where}.batch_norm: updated, but {phase.tuning.kind!r} takes no steps that statistics follow; remove it"
    if compute.workers > 1 or compute.micro_batch_size is not None:
        split = f"{compute.workers} workers" if compute.workers > 1 else f"micro-batches of {compute.micro_batch_size}"
        yield (
            f"{where}.batch_norm: updated normalises a row by all rows of its batch, which {split} split; set "
            "compute.workers to 0 or 1 and compute.micro_batch_size to null, or leave batch_norm at frozen"
        )


def _packing_misfits(recipe: Recipe) -> Iterator[str]:
    """Say which rows lie in no pack, or why an objective would read them wrong."""
    if recipe.compute.micro_batch_size is not None:
        yield (
            f"compute.pack_tokens: a micro-batch is either packs of {recipe.compute.pack_tokens} tokens or "
            f"{recipe.compute.micro_batch_size} rows; set one of pack_tokens and micro_batch_size to null"
        )
    packed = _these(repr(kind.name) for kind in KINDS.values() if kind.packs)
    for phase in recipe.phases:
        if not phase.tuning.packs:
            yield (
                f"compute.pack_tokens: tuning {phase.tuning.kind!r} of phase {phase.name!r} puts its prompt before a "
                "row, and a pack has many in one; set it to null"
            )
        unpacked = [name for name in phase.parts if not KINDS[recipe.datasets[name].format.yields].packs]
        for name in unpacked:
            yield (
                f"compute.pack_tokens: rows of {packed} are packed, those of {name!r}, on which phase {phase.name!r} "
                f"trains, are {recipe.datasets[name].format.yields!r}; set it to null"
            )
        if not unpacked and not getattr(phase.objective, "packs", False):
            yield (
                f"compute.pack_tokens: objective {phase.objective.kind!r} of phase {phase.name!r} does not say that it "
                "reads packed rows; set it to null"
            )


def _augmentation_misfits(recipe: Recipe, phase: Phase, where: str) -> Iterator[str]:
    """Say which rows an augmentation cannot change, or that they are seen once, as they are."""
    if not phase.augmentation:
        return
    changes = phase.augmentation.changes
    for name in phase.parts:
        kind = KINDS[recipe.datasets[name].format.yields]
        if kind.modality != changes:
            yield (
                f"{where}.augmentation: {phase.augmentation.kind!r} changes {changes}, but the rows of {name!r} are "
                f"{kind.modality}; remove it"
            )
    if not phase.tuning.takes_steps:
        yield (
            f"{where}.augmentation: changes rows step by step, but {phase.tuning.kind!r} is solved for and takes none; "
            "remove it or use another tuning"
        )


def _self_kl_misfits(recipe: Recipe, phase: Phase, where: str) -> Iterator[str]:
    """Say why there is no moving average to stay near to, or no answer of one among several."""
    if not phase.self_kl:
        return
    if phase.ema_decay is None:
        yield f"{where}.self_kl: compares with the moving average of the weights; give ema_decay, for example 0.99"
    if recipe.compute.pack_tokens is not None:
        yield f"{where}.self_kl: is not told of packed rows; set compute.pack_tokens to null"
    if phase.batch_norm == "updated":
        yield f"{where}.self_kl: asks twice, and batch_norm: updated moves its statistics at each; set it to frozen"
    for name in phase.parts:
        kind = KINDS[recipe.datasets[name].format.yields]
        if kind.diverges_by is None:
            yield f"{where}.self_kl: answers to {kind.name!r} rows, as those of {name!r}, have no divergence; remove it"


def _format_misfits(recipe: Recipe, phase: Phase, where: str) -> Iterator[str]:
    """Say which of a phase's datasets its objective cannot learn from, or not beside the others."""
    for name in phase.parts:
        format, objective = recipe.datasets[name].format, phase.objective_of(recipe.datasets[name].task)
        if objective.needs != KINDS[format.yields].taught_as:
            yield (
                f"{where}: {objective.kind!r} needs {objective.needs!r} batches, but dataset "
                f"{name!r} has format {format.kind!r}, which yields {format.yields!r}"
            )
        if format.pairs and not phase.tuning.reads_pairs:
            yield (
                f"{where}: {phase.tuning.kind!r} compares what labels are called with one text, but rows of {name!r} "
                "are pairs of texts; use another tuning"
            )
    formats = {name: recipe.datasets[name].format for name in phase.parts}
    kinds = {name: format.yields for name, format in formats.items()}
    if phase.mixes_rows and len({*kinds.values()}) > 1:
        yield (
            f"{where}.mixing: rows of one kind are mixed in a batch, got "
            f"{', '.join(f'{kind!r} of {name!r}' for name, kind in kinds.items())}; set batches: apart"
        )
    ways = {name: format.special_tokens for name, format in formats.items() if reads_text(format)}
    if len({*ways.values()}) > 1:
        yield (
            f"{where}.mixture: one model reads special tokens in one way, got special_tokens "
            f"{', '.join(f'{way!r} of {name!r}' for name, way in ways.items())}; say the same in their formats"
        )


def _companion_misfits(recipe: Recipe, phase: Phase, ends: Sequence[str]) -> Iterator[str]:
    """Say which frozen models objective and tuning lack or do not ask, and which name none of the `ends` before."""
    kinds: set[BatchKind] = {recipe.datasets[name].format.yields for name in phase.parts if name in recipe.datasets}
    solving = tuple(name for kind in kinds for name in phase.tuning.asks(kind))
    for field, given, more in (("companions", phase.companions, solving), ("scores", phase.scores, ())):
        where, asked = f"phases[{phase.name}].{field}", (*getattr(phase.objective, field, ()), *more)
        if {*asked} != {*given}:
            yield (
                f"{where}: {(phase.tuning if more else phase.objective).kind!r} asks {_these(asked)}, got "
                f"{_these(given)}"
            )
        for name, companion in given.items():
            if companion.phase is not None and companion.phase not in ends:
                yield f"{where}.{name}: {companion.phase!r} is no end of an earlier phase; there are {', '.join(ends)}"
    if phase.answers is not None:
        yield from _answers_misfits(recipe, phase, ends)
    if both := phase.companions.keys() & phase.scores.keys():
        yield f"phases[{phase.name}].scores: {_these(both)} is a companion too; give it another name"


def _answers_misfits(recipe: Recipe, phase: Phase, ends: Sequence[str]) -> Iterator[str]:
    """Say why nothing can be written for a phase's rows, or by whom."""
    where = f"phases[{phase.name}].answers"
    assert phase.answers is not None
    if phase.answers.phase is not None and phase.answers.phase not in ends:
        yield f"{where}: {phase.answers.phase!r} is no end of an earlier phase; there are {', '.join(ends)}"
    if ANSWERS in {**phase.companions, **phase.scores}:
        yield f"{where}: {ANSWERS!r} is a companion's name too; give that another"
    for name in phase.parts:
        if name in recipe.datasets and not KINDS[kind := recipe.datasets[name].format.yields].prompts:
            yield f"{where}: rows of {name!r} are {kind!r}, which have no prompts to go on from; leave it out"


def _unwatched_misfits(where: str, phase: Phase) -> Iterator[str]:
    """Say what of a phase watches the validation loss, where there are no rows to measure it on."""
    unwatched = f"{', '.join(map(repr, phase.parts))} {'has' if len(phase.parts) == 1 else 'have'} validation: 0"
    if phase.optimizer.schedule == "plateau":
        yield f"{where}: 'plateau' watches the validation loss, but {unwatched}"
    if phase.early_stopping:
        yield f"{where}: early_stopping watches the validation loss, but {unwatched}"


def _solved_misfits(where: str, phase: Phase) -> Iterator[str]:
    """Say what of a phase acts on steps, where its tuning is solved for."""
    kind = phase.tuning.kind
    if phase.penalty:
        yield (
            f"{where}.penalty: {phase.penalty.kind!r} acts on steps, but {kind!r} is solved for and takes none; remove "
            "the penalty or use another tuning"
        )
    if phase.ema_decay is not None:
        yield (
            f"{where}.ema_decay: averages over steps, got {phase.ema_decay:g}, but {kind!r} is solved for and takes "
            "none; remove it or use another tuning"
        )
    if phase.mixture:
        yield (
            f"{where}.mixture: is drawn from step by step, but {kind!r} is solved for and takes none; give it "
            "one `dataset` or use another tuning"
        )


def _dataset_misfits(recipe: Recipe) -> Iterator[str]:
    """Say which datasets nobody uses, and whose columns or shares cannot be."""
    used = {*recipe.training_datasets(), *recipe.evaluation_datasets()}
    for name, dataset in recipe.datasets.items():
        split = dataset.split
        if name not in used:
            yield f"datasets.{name}: no phase and no evaluation uses it; remove it"
        if dataset.updated and not dataset.key:
            yield f"datasets.{name}.updated: orders the versions of a key, and there is no key: add one or remove it"
        dropped = {*dataset.source.drop_columns}
        read = {*dataset.format.columns, *dataset.columns, dataset.key, dataset.updated, split.column}
        if both := dropped & read:
            yield f"datasets.{name}.source.drop_columns: {_these(map(str, both))} is read; leave it in"
        if split.by in SplitPolicy.needs_column and not split.column:
            yield f"datasets.{name}.split: by {split.by!r} needs a column"
        if split.by not in SplitPolicy.needs_column and split.column:
            yield f"datasets.{name}.split: by {split.by!r} reads no column, got {split.column!r}; remove it"
        if split.by == "stratified" and not dataset.format.stratifies:
            yield f"datasets.{name}.split: 'stratified' needs labels; format {dataset.format.kind!r} has none"
        if split.validation + split.test > 1.0 + 1e-9:
            yield f"datasets.{name}.split: validation + test is {split.validation + split.test:g}, at most 1"
        if name in recipe.training_datasets() and split.by != "given" and split.validation + split.test > 1.0 - 1e-9:
            yield f"datasets.{name}.split: nothing is left to train on: validation + test is 1"


def _evaluation_misfits(recipe: Recipe) -> Iterator[str]:
    """Say which evaluations and metrics do not fit the recipe's datasets and kind."""
    if not recipe.evaluations:
        yield "evaluations: empty; give at least one, or nothing can be selected"
    for name, evaluation in recipe.evaluations.items():
        where = f"evaluations.{name}"
        if evaluation.dataset not in recipe.datasets:
            yield f"{where}.dataset: {evaluation.dataset!r} is not a dataset; there are {_these(recipe.datasets)}"
            continue
        if not evaluation.metrics:
            yield f"{where}.metrics: empty; give at least one"
        dataset = recipe.datasets[evaluation.dataset]
        yield from _reading_misfits(recipe, where, evaluation)
        names = [metric.name for metric in evaluation.metrics]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            yield f"{where}.metrics: {_these(twice)} is there twice; give each metric once"
        if dataset.split.by != "given" and (dataset.split.validation == 0 or dataset.split.test == 0):
            yield (
                f"{where}: selection reads the validation split and the report the test split, but dataset "
                f"{evaluation.dataset!r} has validation: {dataset.split.validation:g}, test: {dataset.split.test:g}"
            )


def _reading_misfits(recipe: Recipe, where: str, evaluation: Evaluation) -> Iterator[str]:
    """Say what cannot be computed from what the evaluation's rows make the recipe's model say."""
    dataset = recipe.datasets[evaluation.dataset]
    yields: BatchKind = dataset.format.yields
    kinds = _taught(recipe.of_task(dataset.task))
    if _one_model(*kinds) and not _one_model(*kinds, yields):
        yield f"{where}: a model trained on {_these(kinds)} does not answer {yields!r} batches; use another dataset"
    for metric in evaluation.metrics:
        if KINDS[yields].taught_as not in metric.reads:
            yield (
                f"{where}: {metric.kind!r} needs {' or '.join(map(repr, sorted(metric.reads)))} batches, but dataset "
                f"{evaluation.dataset!r} has format {dataset.format.kind!r}, which yields {yields!r}"
            )
        elif metric.reads_writing and not evaluation.max_new_tokens:
            yield f"{where}: {metric.kind!r} reads what the model writes; give max_new_tokens, for example 64"
        elif metric.answer_threshold and not dataset.format.may_be_unanswerable:
            yield (
                f"{where}: {metric.kind!r} has a null_score_diff_threshold, but every question of dataset "
                f"{evaluation.dataset!r} has an answer; give its format unanswerable: keep, or remove the threshold"
            )
    if evaluation.max_new_tokens and not KINDS[yields].prompts:
        yield f"{where}.max_new_tokens: {yields!r} batches have no prompts to go on from; remove it"
    if evaluation.num_beams > 1 and not evaluation.max_new_tokens:
        yield f"{where}.num_beams: {evaluation.num_beams} beams write nothing without max_new_tokens; give it"


def _taught(recipe: Recipe) -> set[BatchKind]:
    """Return the kinds of batch that the published head is trained on; those of all phases where one has no dataset."""
    names = recipe.answering_datasets() if _all_there(recipe) else recipe.training_datasets()
    return {recipe.datasets[name].format.yields for name in names if name in recipe.datasets}


def _one_model(*kinds: BatchKind) -> bool:
    """Say whether one model, with one head, answers batches of all these kinds."""
    one = len({KINDS[kind].auto_class for kind in kinds}) < 2
    return len({*kinds}) < 2 or (one and all(KINDS[kind].language for kind in kinds))


def _select_misfits(recipe: Recipe) -> Iterator[str]:
    """Say which metrics of rule, gates and comparison are measured nowhere, and which fields the rule does not read."""
    select = recipe.select
    paths = {"select.by": select.by, **({"select.subject_to": select.subject_to} if select.subject_to else {})}
    paths |= {"retrain.compare": recipe.retrain.compare} if recipe.retrain.compare else {}
    paths |= {f"select.gates[{i}].metric": gate.metric for i, gate in enumerate(select.gates)}
    paths |= {f"select.plus[{i}]": path for i, path in enumerate(select.plus)}
    have = [f"{name}/{metric.name}" for name, e in recipe.evaluations.items() for metric in e.metrics]
    for where, path in paths.items():
        if path not in have:
            yield f"{where}: {path!r} is not measured; there are {_these(have)}"
    if (select.rule in ("constrained", "knee")) != (select.subject_to is not None):
        wish = "remove it" if select.subject_to else "give it"
        yield f"select.subject_to: 'constrained' and 'knee' read it, no other rule; the rule is {select.rule!r}: {wish}"
    # Not by `model_fields_set`: a recipe on record says every field.
    if select.max_drop != Select.model_fields["max_drop"].default and select.rule != "constrained":
        yield f"select.max_drop: 'constrained' reads it, no other rule; the rule is {select.rule!r}: remove it"
    if select.rule == "knee" and select.by == select.subject_to:
        yield f"select: a knee lies between two metrics, and by and subject_to are both {select.by!r}"
    if select.by in select.plus:
        yield f"select.plus: {select.by!r} is select.by already, with weight 1; leave it out"
    yield from _fixed_alpha_misfits(recipe)
    for i, gate in enumerate(select.gates):
        if (gate.at_least is None) == (gate.at_most is None):
            yield f"select.gates[{i}]: give exactly one of at_least and at_most"


def _fixed_alpha_misfits(recipe: Recipe) -> Iterator[str]:
    alpha = recipe.select.alpha
    if (recipe.select.rule == "fixed") != (alpha is not None):
        yield "select: rule 'fixed' and alpha go together; give both or neither"
    elif alpha is not None:
        method = recipe.interpolation
        if alpha not in method.places:
            yield (
                f"select.alpha: no candidate will lie at {alpha:g}; the interpolation has "
                f"{', '.join(f'{a:g}' for a in method.places) or f'none: {method.kind!r}'}"
            )


def _interpolation_misfits(recipe: Recipe) -> Iterator[str]:
    """Say why the interpolation cannot reach its points with these phases."""
    if not recipe.interpolation.mixes or not recipe.phases:
        return
    if untrained := [task for task in recipe.tasks or (None,) if _head_is_new(recipe, task)]:
        last = recipe.phases[-1]
        solving = [] if recipe.tasks else _solving(last.objective.needs)
        head = " or ".join(f"{kind} phase" for kind in solving) or "phase that trains the head"
        start = "the base model" if len(recipe.phases) == 1 else "a new head"
        yield (
            f"interpolation: {recipe.interpolation.kind!r} starts from weights whose head means something, but "
            f"phase {last.name!r} starts from {start}{f' of {_these(filter(None, untrained))}' if recipe.tasks else ''}"
            f": put a {head} before it (LP-FT)"
        )
    method = recipe.interpolation
    if len(method.seeds) + len(method.siblings) < method.least:
        yield (
            f"interpolation: {method.kind!r} needs at least {method.least} more fine-tune beside the last phase's: "
            "give it seeds, which train that phase again, or siblings"
        )
    if len({recipe.seed, *method.seeds}) <= len(method.seeds):
        yield f"interpolation.seeds: {_these(map(str, method.seeds))} and the recipe's {recipe.seed} must all differ"
    if (last := recipe.phases[-1].tuning).moves_head_only:
        yield f"interpolation: the last phase is a {last.kind}, which moves the head only; add a phase or use kind: off"


def _head_is_new(recipe: Recipe, task: str | None) -> bool:
    """Say whether the last phase is the first that trains the head, or that of a task."""
    mine = recipe.of_task(task)
    phases = mine.answering_phases if _all_there(recipe) else mine.phases
    if [phase.name for phase in phases] != [recipe.phases[-1].name]:  # or an earlier one trained it
        return False
    return not KINDS[phases[0].objective.needs].answers_untrained


def _solving(kind: BatchKind) -> list[str]:
    """Return the tunings that give a model a head for a kind of batch, and move nothing else."""
    return tunings(lambda tuning: tuning.moves_head_only and (tuning.fits is None or kind in tuning.fits))


def _adapter_misfits(recipe: Recipe) -> Iterator[str]:
    """Say why the phases and the interpolation cannot leave an adapter to publish beside the merged model."""
    *before, last = recipe.phases
    method = recipe.interpolation
    if not last.tuning.makes_adapter:
        making = " or ".join(map(repr, tunings(lambda tuning: tuning.makes_adapter)))
        yield f"publish.adapter: tuning {last.tuning.kind!r} of the last phase makes none; use {making} or remove it"
    elif last.tuning.quantization:
        yield (
            f"publish.adapter: {last.tuning.kind!r} trains over weights that are rounded to four bits, and the adapter "
            "would be put over others; remove it, or publish the adapter alone by tuning.keep: adapter"
        )
    elif method.mixes and not last.tuning.adapter_scales:
        yield "publish.adapter: scaling a DoRA adapter gives another model than interpolation; use interpolation: off"
    if moved := [phase.name for phase in before if not phase.tuning.moves_head_only]:
        yield (
            f"publish.adapter: an adapter must stand on the base model, and {_these(moved)} moved it; only "
            f"{' or '.join(tunings(lambda tuning: tuning.moves_head_only))} phases may come before"
        )
    if method.mixes and not method.is_line:
        yield (
            f"publish.adapter: one scale gives the points of a straight line alone; interpolation {method.kind!r} must "
            "be 'wise_ft' without modules and depth, or 'off'"
        )


def end_form(recipe: Recipe, start: Form, phases: int | None = None) -> Form:
    """Return the form that the phases, or the first of them, end in, given that of the base model."""
    form = start
    for phase in recipe.phases[:phases]:
        form = phase.tuning.leaves or form
    return form


def form_misfits(recipe: Recipe, start: Form) -> Iterator[str]:
    """Say what cannot be interpolated or published for the forms that phases end in, given that of the base model."""
    yield from _over_adapter_misfits(recipe, start)
    if recipe.prune and start == "adapter":
        yield "prune: an adapter stands on all layers of its base; start from a dense model"
    before, end = end_form(recipe, start, phases=-1), end_form(recipe, start)
    method = recipe.interpolation
    if (before, end) == ("adapter", "dense") and method.mixes:
        yield (
            f"interpolation: {method.kind!r} mixes dense weights, and phase {recipe.phases[-1].name!r} starts from an "
            "adapter: give it tuning.keep: adapter, or use kind: off"
        )
    if end == "dense" or not recipe.phases:
        return
    last = recipe.phases[-1]
    where = f"phases[{last.name}].tuning: ends in an adapter"
    instead = ", or set keep: merged" if last.tuning.merges else ""
    if method.mixes and last.tuning.merges and not method.is_sum:
        yield (
            f"{where}, and adapters are added up with one share for all tensors; interpolation {method.kind!r} must be "
            "'wise_ft' without modules and depth, 'soup', 'task_arithmetic' or 'off', or set keep: merged"
        )
    elif method.mixes and not last.tuning.adapter_scales:
        yield f"{where} that cannot be scaled; use interpolation: off{instead}"
    if recipe.publish.fisher:
        yield f"publish.fisher: is of the weights themselves, and {last.name!r} ends in an adapter{instead}"
    if recipe.publish.adapter:
        yield f"publish.adapter: {last.name!r} ends in an adapter, so the version is one; remove it"
    if recipe.prune or recipe.added_tokens:
        less = "without some layers" if recipe.prune else "with more tokens"
        yield f"{where} over a model {less}, which nobody else has; set keep: merged"
    if moved := [phase.name for phase in recipe.phases if phase.tuning.leaves == "dense"]:
        remedy = "set keep: merged" if last.tuning.merges else "let it be the only phase, or follow a linear_probe"
        yield f"{where} over what {_these(moved)} made of the base model, which nobody else has; {remedy}"


def _over_adapter_misfits(recipe: Recipe, start: Form) -> Iterator[str]:
    """Say which phases start from an adapter that they can neither merge nor go on with, or give a head."""
    for i, phase in enumerate(recipe.phases if _all_there(recipe) else ()):
        if recipe.takes_new_head(phase) and end_form(recipe, start, phases=i) == "adapter":
            yield (
                f"phases[{phase.name}]: needs a head of its own, which dense weights are given, and "
                f"{recipe.phases[i - 1].name!r} ends in an adapter: set its tuning.keep to merged"
            )
    below: Phase | None = None
    for phase in recipe.phases:
        tuning = phase.tuning
        where = f"phases[{phase.name}].tuning"
        if below and tuning.leaves == "dense" and not below.tuning.merges:
            yield (
                f"{where}: {tuning.kind!r} starts from the adapter of {below.name!r}, and {below.tuning.kind!r} has no "
                "merged form; use the same tuning, or put it last"
            )
        elif below and tuning.leaves == "adapter" and below.tuning.makes not in tuning.takes_over:
            yield (
                f"{where}: {tuning.kind!r} starts from the adapter of {below.name!r} and cannot go on with one of "
                f"{below.tuning.kind!r}; use {GOES_ON.get(below.tuning.makes, below.tuning.kind)}, or start from the "
                "base"
            )
        if tuning.leaves:
            below = phase if tuning.leaves == "adapter" else None


def quantization_misfits(recipe: Recipe, form: Form, rounded: Quantization | None = None) -> Iterator[str]:
    """Say which phases would train in four bits over an adapter whose base is not rounded so.

    `form` is that of the base model, and `rounded` how what it stands on is rounded.
    """
    for phase in recipe.phases:
        tuning, where = phase.tuning, f"phases[{phase.name}].tuning: {phase.tuning.kind!r}"
        if form == "adapter" and tuning.quantization and tuning.leaves != "adapter":
            yield f"{where} starts from an adapter, which it would merge; set keep: adapter, which goes on with it"
        elif form == "adapter" and tuning.quantization and tuning.quantization != rounded:
            yield (
                f"{where} holds the base in {tuning.quantization}, and goes on with an adapter that was trained over "
                f"{rounded or 'unrounded weights'}; use the tuning that the adapter was trained with"
            )
        if tuning.leaves == "adapter" and form == "dense":
            rounded = tuning.quantization
        form = tuning.leaves or form


def _these(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"
