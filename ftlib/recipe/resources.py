"""What a recipe asks of the machine or the cluster, compared with what is there before the first row is read.

What can never come would be waited for: Ray queues a worker until there is a GPU for it, and says nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from ftlib.errors import RecipeError, ReglageError
from ftlib.kinds.kind import KINDS
from ftlib.models.checkpoint import FoundModel
from ftlib.models.folder import tensor_spans
from ftlib.progress import note
from ftlib.recipe.recipe import Recipe
from ftlib.storage.files import in_bytes
from ftlib.training.compute import Compute
from ftlib.training.memory.cards import Card
from ftlib.training.memory.peak_memory import of_machine
from ftlib.training.phase import ANSWERS, CRITIC, Phase
from ftlib.training.precision import resolve_precision
from ftlib.training.resources import Wanted, check_bf16, check_gpu, gpu_lacks
from ftlib.wording import counted, some

if TYPE_CHECKING:
    from ftlib.training.memory.footprint import Footprint, Frozen


def wanted(recipe: Recipe) -> tuple[Wanted, ...]:
    """Return what a recipe's stages ask of Ray; what runs in this process is not among it."""
    compute, gpus = recipe.compute, int(recipe.compute.use_gpu)
    asked: list[Wanted] = []
    if compute.most_workers and any(phase.tuning.takes_steps for phase in recipe.phases):
        each = _threads(compute, compute.most_workers)
        most = compute.most_workers if compute.is_elastic else 0
        asked.append(Wanted("workers", compute.least_workers, each, gpus, at_most=most))
    if compute.infers_on_ray:
        each = _threads(compute, compute.evaluation_workers)
        asked.append(Wanted("evaluation_workers", compute.evaluation_workers, each, gpus))
    if compute.prepares_on_ray:
        asked.append(Wanted("data_workers", compute.data_workers, 1, 0, memory=compute.data_worker_memory_mb << 20))
    return tuple(asked)


def _threads(compute: Compute, workers: int) -> int:
    return compute.threads or max(1, (os.cpu_count() or 1) // workers)


def check_resources(
    recipe: Recipe,
    model: Path | None = None,
    companions: Mapping[str, Mapping[str, FoundModel]] = MappingProxyType({}),
) -> None:
    """Compare what a recipe asks for with this machine, or with the cluster that it names.

    With the folder of the base model, its weights are compared with the memory too. Raises RecipeError, which names
    what is asked for, what there is and what to change; TransientError for a cluster that does not answer.
    """
    _check_packages(recipe)
    if recipe.compute.ray_address == "local":
        _check_machine(recipe)
    else:
        from ftlib.on_ray.cluster import check_cluster

        check_cluster(recipe.compute, wanted(recipe))
        _check_here(recipe)
    if model is None or recipe.compute.ray_address != "local" or _surely_fits(recipe.compute, model, companions):
        return
    _check_memory(recipe, model, companions)


def _check_packages(recipe: Recipe) -> None:
    """Raise RecipeError for a part of a phase that asks for a package which is not installed here."""
    for phase in recipe.phases:
        for where, part in (("tuning", phase.tuning), ("optimizer", phase.optimizer)):
            if part.package and find_spec(part.package) is None:
                raise RecipeError(
                    f"phases[{phase.name}].{where}: {part.kind!r} needs {part.package}, which is not installed; pip "
                    f"install 'reglage[{part.package}]', or use {part.without_package!r}"
                )


def _check_machine(recipe: Recipe) -> None:
    """Raise RecipeError for more GPUs, CPUs or memory than this machine has."""
    check_gpu(recipe.compute)  # also what no worker does, a probe and the comparisons of the report, runs on it
    if recipe.compute.use_gpu and any(phase.precision == "bf16" for phase in recipe.phases):
        check_bf16()
    cores, gpus = os.cpu_count() or 1, _gpus(recipe.compute)
    for group in wanted(recipe):
        if group.gpus * group.most > gpus:
            raise RecipeError(
                f"{group}, but this machine has {counted(gpus, 'GPU')}, one for each worker; lower "
                f"compute.{group.field} to {gpus}, or name a cluster in compute.ray_address"
            )
        if group.cpus * group.most > cores:
            raise RecipeError(
                f"{group}, but this machine has {counted(cores, 'CPU')}; lower compute.{group.field} or "
                "compute.threads, or name a cluster in compute.ray_address"
            )
        if group.memory * group.workers > (memory := of_machine()):
            raise RecipeError(
                f"{group}, but this machine has {in_bytes(memory)}; lower compute.{group.field} or "
                "compute.data_worker_memory_mb, or name a cluster in compute.ray_address"
            )


def _check_here(recipe: Recipe) -> None:
    """Say what this machine's CPU computes beside a cluster, where the recipe wants GPUs and none is here.

    Raises RecipeError for a training.
    """
    compute = recipe.compute
    if not compute.use_gpu or not (done := [*_done_here(recipe)]) or not (lacks := gpu_lacks()):
        return
    if not compute.most_workers and any(phase.tuning.takes_steps for phase in recipe.phases):
        raise RecipeError(
            f"compute.workers: 0 workers train in this process, with use_gpu true, but {lacks}; set workers to 1 or "
            "more, which train on the cluster, or use_gpu to false"
        )
    remedy = "" if compute.infers_on_ray else "; compute.evaluation_workers: 2 or more measure on the cluster"
    note("cluster", f"{lacks}, so its CPU does what the cluster does not: {some(done)}{remedy}")


def _done_here(recipe: Recipe) -> Iterator[str]:
    """Yield what this process computes with a model, and no Ray worker; without phases models are compared."""
    for phase in recipe.phases:
        if not (recipe.compute.most_workers and phase.tuning.takes_steps):
            yield f"phases[{phase.name}]"
    if recipe.phases and recipe.prune:
        yield "prune"
    if not recipe.compute.infers_on_ray:
        yield "evaluations"
    if recipe.phases and recipe.select.divergence and KINDS[recipe.answering_kind].diverges_by == "token":
        yield "select.divergence"


def check_card(recipe: Recipe, card: Card) -> None:
    """Raise RecipeError for a phase that asks for bf16 where a card does not compute it."""
    for phase in recipe.phases:
        precision_on(card, phase)


def precision_on(card: Card, phase: Phase) -> Literal["fp32", "bf16"]:
    """Return a phase's precision with `auto` settled for a card. Raises RecipeError for bf16 where it has none."""
    if phase.precision == "bf16" and card.bf16_flops is None:
        raise RecipeError(
            f"phases[{phase.name}].precision: bf16, which {card.name} does not compute; set it to fp32 or auto, or "
            "choose a card of 2020 or later"
        )
    return phase.precision if phase.precision != "auto" else "fp32" if card.bf16_flops is None else "bf16"


def room_of(compute: Compute, card: Card | None = None) -> int | None:
    """Return the bytes that one worker has: a card's, this machine's GPU's, or its share of this machine's memory.

    None where workers have GPUs that this machine does not see.
    """
    if card is not None:
        return card.memory
    if compute.use_gpu and gpu_lacks():
        return None
    return _memory(compute) // (1 if compute.use_gpu else max(1, compute.most_workers))


def _gpus(compute: Compute) -> int:
    if not compute.use_gpu:
        return 0
    import torch

    return torch.cuda.device_count()


def _surely_fits(compute: Compute, model: Path, companions: Mapping[str, Mapping[str, FoundModel]]) -> bool:
    """Say whether this machine has twice what workers hold that train all weights of all models.

    It is known by the headers of files. To count what a phase moves, torch and transformers are loaded, and a run that
    finds everything done takes twice as long.
    """
    if compute.use_gpu:
        return False
    folders = [model, *(found.folder for of_phase in companions.values() for found in of_phase.values())]
    try:
        numbers = sum(prod(span.shape) for folder in folders for span in tensor_spans(folder).values())
    except ReglageError:  # an adapter, or what the stage that loads it says more of
        return False
    return 2 * 16 * numbers * max(1, compute.most_workers, compute.evaluation_workers) <= of_machine()


def _check_memory(recipe: Recipe, model: Path, companions: Mapping[str, Mapping[str, FoundModel]]) -> None:
    """Compare the least that each phase holds: weights, and for what trains a gradient and Adam's moments, in fp32.

    Companions are weights alone, and so are scorers, of which each has the workers that measure to itself.
    """
    compute, memory = recipe.compute, _memory(recipe.compute)
    has = f"{'one GPU' if compute.use_gpu else 'this machine'} has {in_bytes(memory)}"
    for phase, size, frozen in _sizes(recipe, model, companions):
        beside = sum(frozen[name].parameters for name in phase.companions)
        steps = phase.tuning.takes_steps
        workers = max(1, compute.most_workers) if steps else 1
        trained = size.trained if steps else 0
        still = 2 if steps and resolve_precision(phase, compute) == "bf16" else 4  # frozen weights may be held in bf16
        frozen_bytes = 0.5 if phase.tuning.quantization else still  # of four bits the least: embeddings are held whole
        whole = int(16 * trained + frozen_bytes * max(0, size.parameters - trained) + still * beside)
        sharded = compute.sharding == "fsdp" and steps
        if sharded:
            least = 0 if compute.cpu_offload else whole * (1 if compute.use_gpu else workers) // _shards(compute)
        else:
            least = whole * (1 if compute.use_gpu else workers)
        if least > memory:
            raise RecipeError(
                f"phases[{phase.name}]: {counted(workers, 'worker')} with {size.parameters + beside:,} parameters, "
                f"{trained:,} of them trained, hold at least {in_bytes(least)}, but {has}; "
                f"{_remedy(compute, whole, memory, steps=steps)}"
            )
        for name in [*phase.scores, *(one for one in (ANSWERS, CRITIC) if one in phase.beside)]:
            workers, parameters = compute.evaluation_workers, frozen[name].parameters
            least = 4 * parameters * (1 if compute.use_gpu else workers)
            if least > memory:
                where = name if name == ANSWERS else f"principles.{name}" if name == CRITIC else f"scores.{name}"
                raise RecipeError(
                    f"phases[{phase.name}].{where}: {counted(workers, 'worker')} with {parameters:,} parameters "
                    f"hold at least {in_bytes(least)}, but {has}; choose a smaller model, or fewer evaluation_workers"
                )


def _shards(compute: Compute) -> int:
    least = compute.least_workers if compute.use_gpu else compute.most_workers
    return max(1, least) // compute.replicas


def _remedy(compute: Compute, whole: int, memory: int, *, steps: bool) -> str:
    """Say what to change, with the number of workers between whom the model would fit."""
    if steps and compute.use_gpu:
        enough = 1 + whole // memory
        return f"shard it over {enough} workers or more (compute.sharding fsdp), or choose a smaller model or lora"
    if steps and compute.most_workers > 1 and _shards(compute) == 1 and whole <= memory:
        return "share one copy between the workers (compute.sharding fsdp), or choose fewer workers or lora"
    return "choose a smaller model, lora, or fewer workers"


def _sizes(
    recipe: Recipe, model: Path, companions: Mapping[str, Mapping[str, FoundModel]]
) -> Iterator[tuple[Phase, Footprint, dict[str, Frozen]]]:
    """Yield what each phase moves, and the frozen models that have a part in it.

    Nothing where a model cannot be counted: the stage that loads it says why.
    """
    from ftlib.training.memory.footprint import footprint, frozen_beside

    phases = recipe.phases
    kind = recipe.answering_kind
    labels = KINDS[kind].least_labels and 2
    try:
        sizes = [footprint(model, recipe.kind(phase), labels, phase.tuning) for phase in phases]
        frozen = frozen_beside(phases, sizes, kind, model, companions, labels)
    except Exception:
        return
    yield from zip(phases, sizes, frozen, strict=True)


def _memory(compute: Compute) -> int:
    if compute.use_gpu:
        import torch

        return min(torch.cuda.get_device_properties(i).total_memory for i in range(torch.cuda.device_count()))
    return of_machine()
