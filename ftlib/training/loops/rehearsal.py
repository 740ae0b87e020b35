"""What would fail after hours, before the first step: the widest micro-batch, an evaluation, a save and a reload.

It happens on the real device, with the model spread over the group and room for what the optimiser remembers, and
leaves no trace: weights, statistics, optimiser and random numbers are what they were, to the bit.
"""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ftlib.errors import ReglageError, TrainingError, first_line
from ftlib.storage.files import in_bytes
from ftlib.training.checkpoints.in_bucket import checkpoints_at
from ftlib.training.checkpoints.run_place import RunPlace
from ftlib.training.group import Group, accumulating, bit_sums, shard_again, unwrap
from ftlib.training.loops.asking import Asking
from ftlib.training.loops.modes import into_training
from ftlib.training.memory import peak_memory
from ftlib.training.memory.prediction import Memory, Sized, fitting, predict, state_bytes, widest

log = logging.getLogger(__name__)


def rehearse(sized: Sized, asking: Asking, place: RunPlace) -> None:
    """Do once what a run does again and again, collectively, on the widest rows. `asking` asks the spread model.

    Raises TrainingError where there is too little memory for it, with what would fit, or where weights that were read
    back are not those that were written; StorageError where they cannot be written.
    """
    model, group = asking.model, asking.group
    devices = [group.device] if group.device.type == "cuda" else []
    with torch.random.fork_rng(devices), enough_memory(sized, group.device):
        # What the optimiser remembers is there from the second step on; of a CPU nothing is taken that is not written.
        moments = torch.empty(state_bytes(sized), dtype=torch.uint8, device=group.device)
        _pass(sized, asking)
        _evaluation(sized, asking)
        shard_again(unwrap(model))
        del moments
        if group.is_first:
            log.info("rehearsed the widest batch: %s at most", in_bytes(peak_memory.peak(group.device)))
    before = bit_sums(model)
    _save_and_reload(model, asking.group, place.below("rehearsal"))
    if bit_sums(model) != before:
        raise TrainingError(
            f"phase {sized.phase.name}: weights that were read back are not those that were written; look at the disk "
            "of the work folder, or choose another --work"
        )


def _pass(sized: Sized, asking: Asking) -> None:
    model = asking.model
    into_training(model, updated=False, dropout=asking.drops_out)  # its statistics are not to move for a rehearsal
    ddp = isinstance(model, DistributedDataParallel)
    drops = [p.register_post_accumulate_grad_hook(_drop) for p in model.parameters() if p.requires_grad and ddp]
    try:
        # DDP settles the order of its buckets at the first exchange, and that is to be the first step's.
        with accumulating(model, last=not ddp):
            split, rows = widest(sized.train, sized.rows * sized.workers, _packs(sized))
            asking.loss(split, asking.pieces(split, rows)[0][0]).total.backward()
    finally:
        for hook in drops:
            hook.remove()
    model.zero_grad(set_to_none=True)


def _drop(parameter: torch.Tensor) -> None:
    """Forget a gradient, as DDP moves it into its buckets."""
    parameter.grad = None


@torch.no_grad()
def _evaluation(sized: Sized, asking: Asking) -> None:
    if not any(map(len, sized.validation)):
        return
    asking.model.eval()
    split, rows = widest(sized.validation, sized.batch_rows(sized.validation, 2), _packs(sized))
    asking.loss(split, asking.pieces(split, rows)[0][0])


def _packs(sized: Sized) -> int | None:
    """Return the tokens that all workers read at a time, where rows are packed."""
    return None if sized.compute.pack_tokens is None else sized.compute.pack_tokens * sized.workers


def _save_and_reload(model: nn.Module, group: Group, place: RunPlace) -> None:
    # Of an attempt that was killed in it, maybe with other ranks.
    group.together(lambda: place.clear() if group.is_first else None)
    checkpoints = checkpoints_at(place, "rehearsal", group)
    try:
        checkpoints.keep_best(model, step=0)
        checkpoints.restore_best(model, step=0)
    finally:
        checkpoints.close()
    group.barrier()
    if group.is_first:
        place.clear()


@contextmanager
def enough_memory(sized: Sized, device: torch.device) -> Generator[None]:
    """Turn what torch raises where memory ends into a TrainingError: the predicted parts, and what would fit."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise _too_little(sized, device, error) from error
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):  # the CPU's allocator has no class of its own
            raise
        raise _too_little(sized, device, error) from error


def _too_little(sized: Sized, device: torch.device, error: BaseException) -> TrainingError:
    if device.type == "cuda":
        torch.cuda.empty_cache()
        room = torch.cuda.get_device_properties(device).total_memory
    else:
        room = peak_memory.of_machine() // sized.workers
    problem = f"phase {sized.phase.name}: a worker's memory is too small ({first_line(error)})"
    try:
        memory, near = predict(sized), fitting(sized, room)
    except ReglageError:  # of a model that cannot be counted
        return TrainingError(f"{problem}; {_less(sized)}")
    remedy = f"set {near}" if near and near.settings else _less(sized)
    return TrainingError(f"{problem}; predicted are {told(memory)}, of {in_bytes(room)}; {remedy}")


def _less(sized: Sized) -> str:
    """Say what takes less memory, of what this phase can still lower."""
    compute = sized.compute
    if compute.pack_tokens is not None:
        return "lower compute.pack_tokens"
    if sized.rows > 1:
        return "lower compute.micro_batch_size"
    if sized.workers > 1 and compute.sharding == "ddp":
        return "set compute.sharding to fsdp"
    return "choose a smaller model, lora, or a machine with more memory"


def told(memory: Memory) -> str:
    """Say a prediction in a line, its parts from the largest on."""
    parts: dict[str, Any] = memory.model_dump()
    largest = sorted(((size, name) for name, size in parts.items() if size), reverse=True)
    return f"{in_bytes(memory.total)}: " + ", ".join(f"{name} {in_bytes(size)}" for size, name in largest)
