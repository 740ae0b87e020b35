"""The workers of one training: who I am, what we agree on, and how the model is spread over us."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from ftlib import errors
from ftlib.errors import ReglageError, TrainingError


@dataclass(frozen=True)
class Group:
    """One rank's view. A group of one needs no process group."""

    rank: int
    world_size: int
    device: torch.device

    @classmethod
    def join(cls, expected: int, *, use_gpu: bool) -> Group:
        """Return this process's place in torch's process group, or a group of one if there is none.

        Raises TrainingError if the world is not as large as asked: two workers that each believe to be alone train
        two models on half of the data each.
        """
        world_size = dist.get_world_size() if dist.is_initialized() else 1
        if world_size != max(1, expected):
            raise TrainingError(f"{max(1, expected)} workers were asked for, {world_size} found each other")
        device = torch.device("cuda", torch.cuda.current_device()) if use_gpu else torch.device("cpu")
        return cls(dist.get_rank() if dist.is_initialized() else 0, world_size, device)

    @property
    def is_first(self) -> bool:
        """Say whether this rank writes what is written once."""
        return self.rank == 0

    def sum(self, *values: float | torch.Tensor) -> list[float]:
        """Return the sums over all ranks, in float64."""
        return self.summed(*values).tolist()

    def summed(self, *values: float | torch.Tensor) -> Float[torch.Tensor, " values"]:
        """Return the sums over all ranks, in float64 and unread: nothing waits for the device."""
        total = torch.stack([self._own(value) for value in values])
        if self.world_size > 1:
            dist.all_reduce(total)
        return total

    def _own(self, value: float | torch.Tensor) -> Float[torch.Tensor, ""]:
        if isinstance(value, torch.Tensor):
            return value.detach().to(self.device, torch.float64, non_blocking=True)
        return torch.full((), value, dtype=torch.float64, device=self.device)  # a copy would wait for the queue

    def add_up(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the sum of a tensor over all ranks, which have it in the same shape."""
        total = tensor.detach().clone()
        if self.world_size > 1:
            dist.all_reduce(total)
        return total

    def share_of(self, model: nn.Module) -> float:
        """Return by how much a sum over this rank's parameters counts in the sum over the model's."""
        return 1.0 if isinstance(model, FSDPModule) else 1.0 / self.world_size

    def gather(self, value: object) -> list[object]:
        """Return every rank's value, in order of rank."""
        if self.world_size == 1:
            return [value]
        values: list[object] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def together(self, work: Callable[[], None]) -> None:
        """Do what may fail on one rank alone: a file that it cannot read. Where one fails, all raise its error.

        Else the others would wait for it in the next exchange.
        """
        failure: ReglageError | None = None
        try:
            work()
        except ReglageError as error:
            failure = error
        said = self.gather((type(failure).__name__, str(failure)) if failure else None)
        if failure:
            raise failure
        for kind, message in (cast("tuple[str, str]", one) for one in said if one):
            raise getattr(errors, kind, TrainingError)(message)

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.world_size > 1:
            dist.barrier()

    def check_agreement(self, model: nn.Module, step: int) -> None:
        """Compare the bits of all replicated tensors over all ranks; sharded ones are each on one rank only.

        Raises TrainingError if two ranks train two models.
        """
        if self.world_size == 1 or isinstance(model, FSDPModule):
            return
        sums = self.gather(bit_sums(model))
        if differing := [rank for rank, other in enumerate(sums) if other != sums[0]]:
            raise TrainingError(f"after step {step} the parameters of ranks {differing} differ from rank 0's")

    def spread(self, model: nn.Module, sharding: Literal["ddp", "fsdp"]) -> nn.Module:
        """Return the model on this rank's device, replicated (DDP) or sharded (FSDP2) over the group."""
        return self.replicate(self.place(model, sharding))

    def place(self, model: nn.Module, sharding: Literal["ddp", "fsdp"]) -> nn.Module:
        """Return the model on this rank's device, its shard alone if it is to be sharded; no replica is bound yet.

        What is on the meta device stays there: its values are read later, of a shard only the shard's.
        """
        _move(model, self.device)
        if self.world_size == 1 or sharding == "ddp":
            return model
        mesh = init_device_mesh(self.device.type, (self.world_size,))
        for layer in transformer_layers(model):
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        return model

    def replicate(self, placed: nn.Module) -> nn.Module:
        """Bind a placed model's replicas, so that gradients travel: of those parameters that train now.

        Shards are bound already, and a model of which nothing trains has no gradients: DDP refuses it.
        """
        trains = any(parameter.requires_grad for parameter in placed.parameters())
        if self.world_size == 1 or isinstance(placed, FSDPModule) or not trains:
            return placed
        return DistributedDataParallel(placed, gradient_as_bucket_view=True, forward_sync_buffers=False)


def _move(model: nn.Module, device: torch.device) -> None:
    """Put a model on a device, but for what is on the meta device: a copy of nothing."""
    cast(Any, model)._apply(lambda tensor: tensor if tensor.is_meta else tensor.to(device))


def transformer_layers(model: nn.Module) -> list[nn.Module]:
    """Return the modules of the longest ModuleList: what is sharded, and gathered, one at a time."""
    lists = [list(module) for module in model.modules() if isinstance(module, nn.ModuleList)]
    return max(lists, key=len, default=[])


@contextlib.contextmanager
def accumulating(model: nn.Module, *, last: bool) -> Generator[None]:
    """Let gradients travel between ranks only in the last micro-batch of a step."""
    if isinstance(model, DistributedDataParallel) and not last:
        with model.no_sync():
            yield
        return
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(last)
    yield


def unwrap(model: nn.Module) -> nn.Module:
    """Return the model inside DDP; FSDP2 and a lone model are themselves."""
    return cast(nn.Module, model.module) if isinstance(model, DistributedDataParallel) else model


def own_part(tensor: torch.Tensor) -> torch.Tensor:
    """Return this rank's part of a tensor, outside of autograd and in the same memory: its shard, or all of it.

    Ask for a parameter's each time: FSDP2 may exchange the memory behind it until its first forward pass.
    """
    return tensor.to_local().detach() if isinstance(tensor, DTensor) else tensor.detach()


def bit_sums(model: nn.Module) -> list[int]:
    """Return one exact integer per parameter and buffer, equal on two ranks only if their bits are.

    But for freak cases. BatchNorm's statistics are buffers.
    """
    views = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    sums = [
        cast(Any, p.detach()).contiguous().view(views[p.element_size()]).sum(dtype=torch.int64)
        for p in (*model.parameters(), *model.buffers())
        if p.numel()
    ]
    return torch.stack(sums).tolist() if sums else []
