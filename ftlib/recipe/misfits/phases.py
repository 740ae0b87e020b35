"""What of a phase does not fit its rows, its tuning, its objective or how it is computed."""

from __future__ import annotations

from collections.abc import Iterator

from ftlib.config import BatchKind
from ftlib.data.formats.text import reads_text
from ftlib.kinds.kind import KINDS, one_model
from ftlib.recipe.misfits.batches import batch_misfits, objectives_of
from ftlib.recipe.misfits.beside import aside_misfits, companion_misfits, keeping_misfits
from ftlib.recipe.misfits.policies import policy_misfits
from ftlib.recipe.misfits.principles import principle_misfits
from ftlib.recipe.misfits.tasks import task_misfits
from ftlib.recipe.parts import RecipeParts
from ftlib.training.compute import Compute
from ftlib.training.phase import Phase
from ftlib.wording import these


def phase_misfits(recipe: RecipeParts) -> Iterator[str]:
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
    yield from aside_misfits(recipe)
    for i, phase in enumerate(recipe.phases):
        yield from _misfits_of(recipe, phase)
        yield from policy_misfits(recipe, phase)
        yield from keeping_misfits(recipe, phase, first=i == 0)
        ends = ("base", *(["prune"] if recipe.prune else []), *names[:i])
        yield from companion_misfits(recipe, phase, ends)
        yield from principle_misfits(recipe, phase, ends)


def _head_misfits(recipe: RecipeParts) -> Iterator[str]:
    """Say which phases no head can be trained by, and which head would be thrown away with the labels it learnt."""
    if not recipe.has_training_datasets:
        return
    for phase in recipe.phases:
        kinds: set[BatchKind] = {recipe.kind_of(phase, name) for name in phase.parts}
        if not one_model(*kinds):
            yield f"phases[{phase.name}]: one head must answer all of its batches; these are {these(kinds)}"
    writing = {kind: KINDS[kind].decodes for kind in map(recipe.kind, recipe.phases) if KINDS[kind].language}
    if len({*writing.values()}) > 1:  # no body of two halves is one of a decoder alone
        yield f"phases: one model must answer the batches of all; these train on {these(writing)}"
    chain, answering = recipe.chain, recipe.answering_phases
    for phase in recipe.phases:
        same = phase not in chain and one_model(recipe.kind(phase), recipe.answering_kind)
        if phase not in answering and not same and KINDS[kind := recipe.kind(phase)].labeled:
            yield (
                f"phases[{phase.name}]: learns labels ({kind!r}) with a head that a later phase gives up for "
                f"{recipe.answering_kind!r} batches; phases with labels come last"
            )


def _misfits_of(recipe: RecipeParts, phase: Phase) -> Iterator[str]:
    """Say what of one phase does not fit its datasets, its tuning or its companions."""
    where = f"phases[{phase.name}]"
    if absent := [name for name in phase.parts if name not in recipe.datasets]:
        field = "mixture" if phase.mixture else "dataset"
        for name in absent:
            yield f"{where}.{field}: {name!r} is not a dataset; there are {these(recipe.datasets)}"
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
    if compute.sharding == "fsdp" and compute.most_workers > 1 and not phase.optimizer.steps_shards:
        yield (
            f"{where}.optimizer: {phase.optimizer.kind!r} steps whole matrices, but compute.sharding: fsdp gives each "
            "of the workers a part; use adamw or sgd, or set sharding to ddp"
        )


def _unfit_objectives(recipe: RecipeParts, phase: Phase, where: str) -> Iterator[str]:
    """Say which objectives learn from batches that the tuning cannot learn from."""
    for objective in objectives_of(phase, recipe.datasets):
        if phase.tuning.fits is not None and objective.needs not in phase.tuning.fits:
            yield (
                f"{where}: {phase.tuning.kind!r} fits {these(map(repr, phase.tuning.fits))} batches; "
                f"{objective.kind!r} learns {objective.needs!r} ones: use another tuning"
            )


def _statistics_misfits(where: str, phase: Phase, compute: Compute) -> Iterator[str]:
    """Say why statistics of a batch would depend on how it is split, which the identity of a phase does not know."""
    if not phase.tuning.takes_steps:
        yield f"{where}.batch_norm: updated, but {phase.tuning.kind!r} takes no steps that statistics follow; remove it"
    if compute.most_workers > 1 or compute.micro_batch_size is not None:
        several = compute.most_workers > 1
        split = f"{compute.workers} workers" if several else f"micro-batches of {compute.micro_batch_size}"
        yield (
            f"{where}.batch_norm: updated normalises a row by all rows of its batch, which {split} split; set "
            "compute.workers to 0 or 1 and compute.micro_batch_size to null, or leave batch_norm at frozen"
        )


def _augmentation_misfits(recipe: RecipeParts, phase: Phase, where: str) -> Iterator[str]:
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
        elif kind.has_places and not phase.augmentation.takes_boxes_along:
            yield (
                f"{where}.augmentation: {phase.augmentation.kind!r} moves pixels, and the boxes of {name!r} would stay "
                "where they are; say kind: mirror, whose boxes go along, or remove it"
            )
    if not phase.tuning.takes_steps:
        yield (
            f"{where}.augmentation: changes rows step by step, but {phase.tuning.kind!r} is solved for and takes none; "
            "remove it or use another tuning"
        )


def _self_kl_misfits(recipe: RecipeParts, phase: Phase, where: str) -> Iterator[str]:
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


def _format_misfits(recipe: RecipeParts, phase: Phase, where: str) -> Iterator[str]:
    """Say which of a phase's datasets its objective cannot learn from, or not beside the others."""
    for name in phase.parts:
        format, objective = recipe.datasets[name].format, phase.objective_of(recipe.datasets[name].task)
        kind = recipe.kind_of(phase, name)
        if objective.needs != KINDS[kind].taught_as:
            by = "principles make of its prompts" if phase.principles else "yields"
            yield (
                f"{where}: {objective.kind!r} needs {objective.needs!r} batches, but dataset "
                f"{name!r} has format {format.kind!r}, which {by} {kind!r}"
            )
        if format.pairs and not phase.tuning.reads_pairs:
            yield (
                f"{where}: {phase.tuning.kind!r} compares what labels are called with one text, but rows of {name!r} "
                "are pairs of texts; use another tuning"
            )
    formats = {name: recipe.datasets[name].format for name in phase.parts}
    kinds = {name: recipe.kind_of(phase, name) for name in formats}
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
