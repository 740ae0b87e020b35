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
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from ftlib import errors
from ftlib.errors import ReglageError, TrainingError
from ftlib.kinds.task_model import TaskModel
from ftlib.training.compute import Compute
from ftlib.training.layers import checkpoint_activations, compile_layers, transformer_layers
from ftlib.training.loops.frozen_bf16 import hold_frozen_in_bf16
from ftlib.training.loops.modes import batch_norms
from ftlib.training.resources import check_bf16


@dataclass(frozen=True)
class Group:
    """One rank's view. A group of one needs no process group."""

    rank: int
    world_size: int
    device: torch.device
    one_disk: bool = True
    """All ranks see the same folders; else each writes to its own node's disk."""

    @classmethod
    def join(cls, expected: int, *, use_gpu: bool, at_most: int | None = None) -> Group:
        """Return this process's place in torch's process group, or a group of one if there is none.

        Raises TrainingError if the world is not as large as asked: two workers that each believe to be alone train
        two models on half of the data each.
        """
        world_size = dist.get_world_size() if dist.is_initialized() else 1
        least, most = max(1, expected), max(1, expected if at_most is None else at_most)
        if not least <= world_size <= most:
            asked = least if least == most else f"{least} to {most}"
            raise TrainingError(f"{asked} workers were asked for, {world_size} found each other")
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
        return 1.0 / len(self._alike(model))

    def _alike(self, model: nn.Module) -> list[int]:
        """Return the ranks that hold the same bits as this one: all of them, or those of the same shard."""
        mesh = shards_of(model)
        if mesh is None:
            return list(range(self.world_size))
        return mesh.mesh[:, mesh.get_local_rank("shard")].tolist() if mesh.ndim == 2 else [self.rank]

    def over_shards(self, model: nn.Module, own: torch.Tensor) -> torch.Tensor:
        """Return the sum of what each rank says of its own shards of a model; of a whole one all have said the same."""
        if shards_of(model) is None:
            return own
        return self.add_up(own.to(self.device)) * self.share_of(model)

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
        failures = self.gather((type(failure).__name__, str(failure)) if failure else None)
        if failure:
            raise failure
        for kind, message in (cast("tuple[str, str]", one) for one in failures if one):
            raise getattr(errors, kind, TrainingError)(message)

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.world_size > 1:
            dist.barrier()

    def check_agreement(self, model: nn.Module, step: int) -> None:
        """Compare the bits of tensors between all ranks that hold the same ones; without copies no two do.

        Raises TrainingError if two ranks train two models.
        """
        alike = self._alike(model)
        if self.world_size == 1 or (shards_of(model) is not None and len(alike) == 1):
            return
        told = self.gather((alike[0], bit_sums(model)))
        sums = [cast("tuple[int, list[int]]", one) for one in told]
        differing = [rank for rank, (first, mine) in enumerate(sums) if mine != sums[first][1]]
        if differing:
            raise TrainingError(
                f"after step {step} the parameters of ranks {differing} differ from those of a rank with the same "
                "part; look at these machines' memory and versions, and run it again"
            )

    def spread(self, model: nn.Module, compute: Compute, precision: Literal["fp32", "bf16"] = "fp32") -> nn.Module:
        """Return the model on this rank's device, replicated (DDP) or sharded (FSDP2, HSDP) over the group."""
        return self.replicate(self.place(model, compute, precision))

    def place(self, model: nn.Module, compute: Compute, precision: Literal["fp32", "bf16"] = "fp32") -> nn.Module:
        """Return the model on this rank's device, its shard alone if it is to be sharded; no replica is bound yet.

        What trains gets its layers' checkpointing and compilation; what is frozen is held in bf16 where that is
        computed in. What is on torch's meta device stays there, with the shapes and types that it will have: its values
        are read later, of a shard only the shard's.

        Raises RecipeError for a device without bf16, or a model without the layers that a setting works on.
        """
        if precision == "bf16":
            if self.device.type == "cuda":
                check_bf16()
            hold_frozen_in_bf16(model, exact=self.device.type == "cpu")
        if any(parameter.requires_grad for parameter in model.parameters()):
            checkpoint_activations(model, compute.activation_checkpointing)
            if compute.compile:
                compile_layers(model)
        if (mesh := self._mesh(compute)) is None:
            return _move(model, self.device)
        _shard(model, mesh, _policy(model, precision), _offloading(compute, self.device))
        return model

    def _mesh(self, compute: Compute) -> DeviceMesh | None:
        """Return how the ranks share shards: all of one model's, or of each copy's; None where nothing is sharded.

        One Ray worker on a GPU has shards that are whole, and worth it: bf16 layers come and go beside fp32 masters.
        """
        alone = self.world_size == 1 and self.device.type == "cpu"
        if compute.sharding != "fsdp" or not dist.is_initialized() or alone:
            return None
        copies = min(compute.replicas, self.world_size)
        if copies == 1:
            return init_device_mesh(self.device.type, (self.world_size,))
        return init_device_mesh(
            self.device.type, (copies, self.world_size // copies), mesh_dim_names=("replicate", "shard")
        )

    def replicate(self, placed: nn.Module) -> nn.Module:
        """Bind a placed model's replicas, so that gradients travel: of those parameters that train now.

        Shards are bound already, and a model of which nothing trains has no gradients: DDP refuses it.
        """
        trains = any(parameter.requires_grad for parameter in placed.parameters())
        if self.world_size == 1 or isinstance(placed, FSDPModule) or not trains:
            return placed
        return DistributedDataParallel(
            placed,
            gradient_as_bucket_view=True,
            forward_sync_buffers=False,
            find_unused_parameters=isinstance(placed, TaskModel),  # a batch leaves the other tasks' heads alone
        )


def _move(model: nn.Module, device: torch.device) -> nn.Module:
    """Put a model on a device, but for what is on the meta device: a copy of nothing."""
    return cast("nn.Module", cast(Any, model)._apply(lambda tensor: tensor if tensor.is_meta else tensor.to(device)))


def backend_of(compute: Compute) -> str:
    """Return the process group's backends; shards in the host's memory are added up by gloo."""
    if not compute.use_gpu:
        return "gloo"
    return "cpu:gloo,cuda:nccl" if compute.cpu_offload else "nccl"


def _policy(model: nn.Module, precision: Literal["fp32", "bf16"]) -> MixedPrecisionPolicy:
    """Return what layers are gathered in; their fp32 shards are what steps, and gradients are added up in fp32.

    Autocast stays on: what it computes in fp32, losses among it, is computed so. BatchNorm wants weights in the type
    of its statistics, so a model with it is gathered in fp32.
    """
    if precision == "fp32" or any(True for _ in batch_norms(model)):
        return MixedPrecisionPolicy()
    return MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)


def _offloading(compute: Compute, device: torch.device) -> OffloadPolicy:
    return CPUOffloadPolicy(pin_memory=device.type == "cuda") if compute.cpu_offload else OffloadPolicy()


def _shard(model: nn.Module, mesh: DeviceMesh, precision: MixedPrecisionPolicy, offloading: OffloadPolicy) -> None:
    """Shard a model in place, layer by layer, and then what is outside of layers.

    A layer is freed after its forward pass, and gathered again for its backward pass. What is outside (embeddings,
    head) stays gathered between the two: the head is needed at once.
    """
    for layer in transformer_layers(model):
        fully_shard(layer, mesh=mesh, reshard_after_forward=True, mp_policy=precision, offload_policy=offloading)
    fully_shard(model, mesh=mesh, reshard_after_forward=False, mp_policy=precision, offload_policy=offloading)


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


def shards_of(model: nn.Module) -> DeviceMesh | None:
    """Return the mesh that a model is sharded over: (shard), or (replicate, shard) with copies; None without shards."""
    if not isinstance(model, FSDPModule):
        return None
    return next(p.device_mesh for p in model.parameters() if isinstance(p, DTensor))


def computes_on(model: nn.Module) -> torch.device:
    """Return the device that a model's batches go to, which is not where offloaded shards are."""
    device, mesh = next(model.parameters()).device, shards_of(model)
    return (
        device if mesh is None or mesh.device_type == device.type else torch.device("cuda", torch.cuda.current_device())
    )


def unwrap(model: nn.Module) -> nn.Module:
    """Return the model inside DDP; FSDP2 and a lone model are themselves."""
    return cast(nn.Module, model.module) if isinstance(model, DistributedDataParallel) else model


def shard_again(model: nn.Module) -> None:
    """Free what FSDP2 has gathered: a forward pass without a backward pass leaves what is outside of layers so.

    Until then those parameters are other tensors than the optimiser's, in the type that was computed in.
    """
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def own_part(tensor: torch.Tensor) -> torch.Tensor:
    """Return this rank's part of a tensor, outside of autograd and in the same memory: its shard, or all of it.

    Ask for a parameter's each time: FSDP2 may exchange the memory behind it until its first forward pass.
    """
    return tensor.to_local().detach() if isinstance(tensor, DTensor) else tensor.detach()


def bit_sums(model: nn.Module) -> list[int]:
    """Return one exact integer per parameter and buffer, equal on two ranks only if their bits are.

    But for freak cases. BatchNorm's statistics are buffers.
    """
    shard_again(model)
    views = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    sums = [
        cast(Any, own_part(p)).contiguous().view(views[p.element_size()]).sum(dtype=torch.int64)
        for p in (*model.parameters(), *model.buffers())
        if p.numel()
    ]
    # Of shards in the host's memory, buffers are on the GPU all the same.
    return torch.stack([one.to(sums[0].device) for one in sums]).tolist() if sums else []
