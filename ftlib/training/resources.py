"""What training and measuring ask of a machine or a cluster, and whether it is there."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from ftlib.errors import RecipeError
from ftlib.training.compute import Compute
from ftlib.wording import counted


@dataclass(frozen=True)
class Wanted:
    """What one part of a run asks for at a time: `workers` processes, each with so much."""

    field: str
    """The field of the recipe that says how many."""
    workers: int
    cpus: int
    gpus: int
    """Of each worker."""
    memory: int = 0
    """Bytes of each worker, where they are asked for."""
    at_most: int = 0
    """Workers that it may grow to; 0 where their number does not change."""

    @property
    def most(self) -> int:
        """Return how many workers there may be."""
        return max(self.workers, self.at_most)

    def __str__(self) -> str:
        each = [counted(self.cpus, "CPU"), *([counted(self.gpus, "GPU")] if self.gpus else [])]
        each += [f"{self.memory >> 20} MB"] if self.memory else []
        workers = (
            counted(self.workers, "worker") if self.most == self.workers else f"{self.workers} to {self.most} workers"
        )
        return f"compute.{self.field} asks for {workers} of {' and '.join(each)}"


def check_gpu(compute: Compute) -> None:
    """Raise RecipeError if a GPU is asked for in this process and torch sees none."""
    if compute.use_gpu and (lacks := gpu_lacks()):
        raise RecipeError(f"compute.use_gpu is true, but {lacks}; set it to false or run where there is one")


def in_this_process(compute: Compute) -> Compute:
    """Return the settings of what this process computes.

    Where a cluster has the GPUs it needs none: without one it uses the CPU.
    """
    if not compute.use_gpu or compute.ray_address == "local" or not gpu_lacks():
        return compute
    return compute.model_copy(update={"use_gpu": False, "cpu_offload": False})


def check_bf16() -> None:
    """Raise RecipeError where this process's GPU does not compute bf16: torch would emulate it, slower than fp32."""
    import torch

    if torch.cuda.is_available() and not gpu_has_bf16():
        raise RecipeError(
            f"precision bf16, but {torch.cuda.get_device_name()} does not compute it; set the phase's precision to "
            "fp32 or auto, or use a card of 2020 or later (A100, L4, H100)"
        )


def gpu_has_bf16() -> bool:
    """Say whether this process's GPU computes bf16 itself."""
    import torch

    return torch.cuda.is_bf16_supported(including_emulation=False)


def gpu_lacks() -> str:
    """Say that torch sees no GPU, and why; nothing where it sees one."""
    import torch

    if torch.cuda.is_available():
        return ""
    if torch.version.cuda is None and torch.version.hip is None:
        return "torch sees no GPU here: it was built without CUDA"
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    return "torch sees no GPU here" + ("" if hidden is None else f": CUDA_VISIBLE_DEVICES is {hidden!r}")


def lacking(asked: Sequence[Wanted], nodes: Sequence[dict[str, float]]) -> Wanted | None:
    """Return the first part of a run for whose workers nodes of these resources have no room; None if all fit.

    Workers go where there is room, the fullest nodes first, as Ray packs them.
    """
    for one in asked:
        room = sum(_fitting(one, node) for node in nodes)
        if room < one.workers:
            return one
    return None


def _fitting(one: Wanted, node: dict[str, float]) -> int:
    asked = {"CPU": one.cpus, "GPU": one.gpus, "memory": one.memory}
    return min(int(node.get(what, 0.0) // each) for what, each in asked.items() if each)
