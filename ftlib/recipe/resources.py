"""What a recipe asks of the machine or the cluster, compared with what is there before the first row is read.

What can never come would be waited for: Ray queues a worker until there is a GPU for it, and says nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from ftlib.errors import RecipeError
from ftlib.kinds.kind import KINDS
from ftlib.models.checkpoint import FoundModel
from ftlib.recipe.recipe import Recipe
from ftlib.storage.files import in_bytes
from ftlib.training.compute import Compute
from ftlib.training.phase import Phase
from ftlib.training.resources import Wanted, check_bf16, check_gpu
from ftlib.wording import counted

if TYPE_CHECKING:
    from ftlib.training.footprint import Footprint, Frozen


def wanted(recipe: Recipe) -> tuple[Wanted, ...]:
    """Return what a recipe's training and measuring ask of Ray; what runs in this process is not among it."""
    compute, gpus = recipe.compute, int(recipe.compute.use_gpu)
    asked: list[Wanted] = []
    if compute.workers and any(phase.tuning.takes_steps for phase in recipe.phases):
        asked.append(Wanted("workers", compute.workers, _threads(compute, compute.workers), gpus))
    if compute.infers_on_ray:
        each = _threads(compute, compute.evaluation_workers)
        asked.append(Wanted("evaluation_workers", compute.evaluation_workers, each, gpus))
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
    if recipe.compute.ray_address == "local":
        _check_machine(recipe)
    else:
        from ftlib.on_ray.cluster import check_cluster

        check_cluster(recipe.compute, wanted(recipe))
    if model is not None and recipe.compute.ray_address == "local":
        _check_memory(recipe, model, companions)


def _check_machine(recipe: Recipe) -> None:
    check_gpu(recipe.compute)  # also what no worker does, a probe and the comparisons of the report, runs on it
    if recipe.compute.use_gpu and any(phase.precision == "bf16" for phase in recipe.phases):
        check_bf16()
    cores, gpus = os.cpu_count() or 1, _gpus(recipe.compute)
    for group in wanted(recipe):
        if group.gpus * group.workers > gpus:
            raise RecipeError(
                f"{group}, but this machine has {counted(gpus, 'GPU')}, one for each worker; lower "
                f"compute.{group.field} to {gpus}, or name a cluster in compute.ray_address"
            )
        if group.cpus * group.workers > cores:
            raise RecipeError(
                f"{group}, but this machine has {counted(cores, 'CPU')}; lower compute.{group.field} or "
                "compute.threads, or name a cluster in compute.ray_address"
            )


def _gpus(compute: Compute) -> int:
    if not compute.use_gpu:
        return 0
    import torch

    return torch.cuda.device_count()


def _check_memory(recipe: Recipe, model: Path, companions: Mapping[str, Mapping[str, FoundModel]]) -> None:
    """Compare the least that each phase holds, in fp32: weights, and for what trains a gradient and Adam's moments.

    Companions are weights alone, and so are scorers, of which each has the workers that measure to itself.
    """
    compute, memory = recipe.compute, _memory(recipe.compute)
    has = f"{'one GPU' if compute.use_gpu else 'this machine'} has {in_bytes(memory)}"
    for phase, size, frozen in _sizes(recipe, model, companions):
        beside = sum(frozen[name].parameters for name in phase.companions)
        steps = phase.tuning.takes_steps
        workers = max(1, compute.workers) if steps else 1
        least = 4 * (size.parameters + beside) + (12 * size.trained if steps else 0)
        if compute.sharding == "fsdp":
            least //= workers if compute.use_gpu else 1
        elif not compute.use_gpu:
            least *= workers
        if least > memory:
            raise RecipeError(
                f"phases[{phase.name}]: {counted(workers, 'worker')} with {size.parameters + beside:,} parameters, "
                f"{size.trained:,} of them trained, hold at least {in_bytes(least)}, but {has}; choose a smaller "
                "model, lora, or fewer workers"
            )
        for name in phase.scores:
            workers, parameters = compute.evaluation_workers, frozen[name].parameters
            least = 4 * parameters * (1 if compute.use_gpu else workers)
            if least > memory:
                raise RecipeError(
                    f"phases[{phase.name}].scores.{name}: {counted(workers, 'worker')} with {parameters:,} parameters "
                    f"hold at least {in_bytes(least)}, but {has}; choose a smaller model, or fewer evaluation_workers"
                )


def _sizes(
    recipe: Recipe, model: Path, companions: Mapping[str, Mapping[str, FoundModel]]
) -> Iterator[tuple[Phase, Footprint, dict[str, Frozen]]]:
    """Yield what each phase moves, and the frozen models that have a part in it.

    Nothing where a model cannot be counted: the stage that loads it says why.
    """
    from ftlib.training.footprint import footprint, frozen_beside

    phases = recipe.phases
    kind = recipe.kind(phases[0])
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
    return min(_limits())


def _limits() -> Iterator[int]:
    """Yield the machine's memory, and what its control group may take of it."""
    yield os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        file = Path(path)
        if file.is_file() and (limit := file.read_text().strip()).isdigit():
            yield int(limit)
