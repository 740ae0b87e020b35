"""What one worker of a training holds at its peak, by part, before anything of it is there.

Weights, gradients and moments are counted on the model; what a micro-batch leaves for the way back is counted by a
pass over the phase's widest rows, on tensors without memory (`live_bytes.py`). docs/plan.md has the rules, and
measurements beside them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import nn

from ftlib.config import Config
from ftlib.errors import ModelError, first_line
from ftlib.kinds.collate import Collator
from ftlib.kinds.loading import head_modules
from ftlib.kinds.packed_attention import NAME, plain_model
from ftlib.kinds.split import PreparedSplit
from ftlib.models.limits import text_config
from ftlib.storage.files import in_bytes
from ftlib.training.compute import Compute
from ftlib.training.group import Group
from ftlib.training.layers import checkpoint_activations, transformer_layers
from ftlib.training.loops.asking import Asking
from ftlib.training.loops.by_task import minimised
from ftlib.training.loops.frozen_bf16 import hold_frozen_in_bf16
from ftlib.training.loops.modes import batch_norms, into_training
from ftlib.training.memory.live_bytes import Held, LiveBytes, bytes_of, without_memory
from ftlib.training.memory.process_bytes import PROCESS
from ftlib.training.objectives.policy import PolicyObjective
from ftlib.training.optimizer import is_hidden_matrix
from ftlib.training.phase import Phase

PREDICTED = "predicted_"
PREDICTED_TOTAL = "predicted_memory_bytes"
MEASURED = "measured_memory_bytes"


class Memory(Config):
    """Bytes of one worker at its peak."""

    weights: int
    """Of the model, this worker's shard of it, and its buffers."""
    gradients: int = 0
    moments: int = 0
    """What the optimiser keeps between steps."""
    copies: int = 0
    """Of what trains: the moving average, and where a penalty pulls to."""
    companions: int = 0
    activations: int = 0
    """What a micro-batch leaves for the way back, and what its operations need for themselves."""
    logits: int = 0
    """Tensors as wide as the vocabulary: what a language model says of each token, its loss and their gradients."""
    exchange: int = 0
    """What workers exchange: with ddp the buckets that gradients are added up in; with fsdp, layers that are gathered
    for a time, and their gradients."""
    checkpoint: int = 0
    """On CPUs the copy that a checkpoint is written from; only where one is, and there is room."""
    process: int = 0
    """What was there before."""

    @property
    def held(self) -> int:
        """Return what training adds to the process: what is measured."""
        return self.total - self.process

    @property
    def total(self) -> int:
        """Return the sum of all parts."""
        return sum(self.model_dump().values())

    def as_facts(self) -> dict[str, int]:
        """Return the parts that are not nothing, and their sum but for `process`, as a record names them."""
        parts = {name: size for name, size in self.model_dump().items() if size and name != "process"}
        return {f"{PREDICTED}{name}_bytes": size for name, size in parts.items()} | {PREDICTED_TOTAL: self.held}

    @classmethod
    def of_facts(cls, facts: Mapping[str, float | int | str]) -> Memory | None:
        """Return what a record predicted; None of one that predicted nothing."""
        if PREDICTED_TOTAL not in facts:
            return None
        return cls(**{name: int(facts.get(f"{PREDICTED}{name}_bytes", 0)) for name in cls.model_fields})


@dataclass(frozen=True)
class Sized:
    """A phase, with what its memory depends on."""

    model: nn.Module
    """As it is before step 0, with what trains set; on torch's meta device it takes none itself."""
    phase: Phase
    compute: Compute
    precision: Literal["fp32", "bf16"]
    train: Sequence[PreparedSplit]
    validation: Sequence[PreparedSplit]
    companions: Mapping[str, nn.Module]

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        """Return where it computes."""
        return "cuda" if self.compute.use_gpu else "cpu"

    @property
    def workers(self) -> int:
        """Return how many ranks share a global batch."""
        return max(1, self.compute.least_workers)

    @property
    def shards(self) -> int:
        """Return over how many workers a model is cut up; 1 where each has all of it."""
        return self.workers // self.compute.replicas if self.compute.sharding == "fsdp" else 1

    def changed(self, **compute: object) -> Sized:
        """Return the same phase with other settings of compute."""
        return replace(self, compute=self.compute.model_copy(update=compute))

    @property
    def rows(self) -> int:
        """Return the rows of the largest micro-batch."""
        share = ceil(self.batch_rows(self.train) / self.workers)
        share = min(share, max(1, max(len(split) for split in self.train)))
        return min(self.compute.micro_batch_size or share, share)

    def batch_rows(self, splits: Sequence[PreparedSplit], times: int = 1) -> int:
        """Return the rows of the widest batch of some splits, `times` the size of a global one.

        Of tokens as many as of the longest rows go into one: those of shorter rows have more, and are as wide.
        """
        optimizer, draws = self.phase.optimizer, getattr(self.phase.objective, "group_size", 1)
        if optimizer.batch_tokens is None:
            return times * optimizer.batch_size * draws
        longest = max((int(split.sizes.max()) for split in splits if len(split)), default=1)
        return max(1, times * optimizer.batch_tokens // max(1, longest))

    @property
    def sharded(self) -> bool:
        """Say whether FSDP2 gathers layers: one Ray worker on a GPU does too."""
        alone = self.compute.use_gpu and self.compute.least_workers == 1
        return self.compute.sharding == "fsdp" and (self.workers > 1 or alone)

    @property
    def hands_on(self) -> bool:
        """Say whether a gradient leaves for where ranks add them up as soon as it is there.

        DDP adds up those of a step's last micro-batch alone; before, they are kept beside its buckets.
        """
        return self.sharded or (self.workers > 1 and not self.accumulates)

    @property
    def accumulates(self) -> bool:
        """Say whether a step has several micro-batches."""
        if self.compute.pack_tokens is not None:
            return True
        most, optimizer = self.batch_rows(self.train), self.phase.optimizer
        if optimizer.batch_tokens is not None and self.compute.micro_batch_size is not None:
            shortest = min((int(split.sizes.min()) for split in self.train if len(split)), default=1)
            most = optimizer.batch_tokens // max(1, shortest)
        return self.rows * self.workers < most


@dataclass(frozen=True)
class Fitting:
    """Settings of compute with which a phase fits into a memory."""

    settings: Mapping[str, object]
    memory: Memory

    def __str__(self) -> str:
        settings = ", ".join(f"compute.{name} {value}" for name, value in self.settings.items())
        return f"{settings} ({in_bytes(self.memory.total)})"


def fitting(sized: Sized, room: int) -> Fitting | None:
    """Return the settings nearest to a phase's own with which a worker stays within `room` bytes; None if none does.

    Tried are, in this order, fewer rows at a time; layers that are computed again; shards; both; and more workers.
    """
    again: dict[str, object] = {"activation_checkpointing": "full"}
    shards: dict[str, object] = {"sharding": "fsdp"}
    has_layers = bool(transformer_layers(sized.model)) and sized.compute.activation_checkpointing == "none"
    ways: list[dict[str, object]] = [{}, *([again] if has_layers else [])]
    if sized.compute.sharding == "ddp":
        ways += [{**way, **shards} for way in ways] if sized.workers > 1 else []
        more = [{**ways[-1], **shards, "workers": workers} for workers in (2, 4, 8, 16, 32, 64, 128, 256)]
    else:
        more = [{**ways[-1], "workers": workers} for workers in (2, 4, 8, 16, 32, 64, 128, 256)]
    ways += [way for way in more if int(str(way["workers"])) > sized.workers and sized.device == "cuda"]
    for way in ways:
        if (largest := _largest_micro_batch(sized.changed(**way), room)) is not None:
            rows, memory = largest
            return Fitting({**way, **({} if rows == sized.rows else {"micro_batch_size": rows})}, memory)
    return None


def _largest_micro_batch(sized: Sized, room: int) -> tuple[int, Memory] | None:
    """Return the most rows at a time, not above those of now, that stay within `room`; memory grows evenly in them."""

    def of(rows: int) -> Memory:
        return predict(sized.changed(micro_batch_size=rows))

    if (now := predict(sized)).total <= room:
        return sized.rows, now
    if sized.compute.pack_tokens is not None or (least := of(1)).total > room:
        return None
    each = max(1, (now.total - least.total) // max(1, sized.rows - 1))
    rows = min(sized.rows - 1, 1 + (room - least.total) // each)
    rows = 1 << (max(1, rows).bit_length() - 1)
    while rows > 1:
        if (memory := of(rows)).total <= room:
            return rows, memory
        rows //= 2
    return 1, least


def predict(sized: Sized, *, checkpointed: bool = False, passes: bool = True) -> Memory:
    """Return what a worker of a phase will hold at its peak, by part; `checkpointed` says that it writes checkpoints.

    Without `passes` only what stands between two steps is counted, which no model or objective can refuse.

    Raises ModelError for a model or an objective whose pass cannot be followed without memory.
    """
    if sized.compute.is_elastic:  # few workers have large shares; only several exchange anything
        numbers = {sized.compute.least_workers, sized.compute.most_workers}
        ways = [predict(sized.changed(workers=n), checkpointed=checkpointed, passes=passes) for n in sorted(numbers)]
        return max(ways, key=lambda memory: memory.total)
    shapes = without_memory(sized.model, "meta")
    beside = {name: without_memory(one, "meta") for name, one in sized.companions.items()}
    if sized.precision == "bf16" and sized.phase.tuning.takes_steps:
        for model in (shapes, *beside.values()):
            hold_frozen_in_bf16(model, exact=sized.device == "cpu")
    state = Memory(
        weights=_held_bytes(shapes, sized),
        companions=sum(_held_bytes(one, sized) for one in beside.values()),
        process=PROCESS[sized.device],
    )
    if not sized.phase.tuning.takes_steps:
        return state
    of_trained = ceil(sum(bytes_of(p) for p in shapes.parameters() if p.requires_grad) / sized.shards)
    moments = state_bytes(sized)
    if sized.compute.cpu_offload:
        of_trained = 0  # gradients, moments and copies are where the shards are
    averaged = sized.phase.ema_decay is not None
    taught = getattr(sized.phase.objective, "renewal", None) is not None
    copies = averaged + taught + (sized.phase.penalty.copies if sized.phase.penalty else 0)
    buckets = of_trained if sized.workers > 1 and not sized.sharded else 0
    try:
        training, judging = _passes(sized, shapes, beside) if passes else (Held(), Held())
    except Exception as error:  # of a model's own code, which was never written for this
        raise ModelError(
            f"phases[{sized.phase.name}]: what a pass of {type(sized.model).__name__} holds cannot be counted: "
            f"{first_line(error)}"
        ) from error
    if sized.sharded:
        training = replace(training, gradients=of_trained)
    # Where DDP has added gradients up, they lie in its buckets.
    stepping = Held(gradients=0 if buckets else of_trained, activations=_step_bytes(sized))
    most = max(training, judging, stepping, _writing(sized, shapes), key=lambda held: held.total)
    return state.model_copy(
        update={
            "gradients": most.gradients,
            "moments": moments,
            "copies": copies * of_trained,
            "activations": most.activations,
            "logits": most.logits,
            "exchange": buckets or _gathered(shapes, sized),
            "checkpoint": (1 + averaged + taught) * of_trained + moments
            if checkpointed and sized.device == "cpu"
            else 0,
        }
    )


def state_bytes(sized: Sized) -> int:
    """Return what a worker's part of the optimiser keeps between two steps, where the model computes."""
    if sized.compute.cpu_offload:
        return 0
    optimizer, head = sized.phase.optimizer, head_modules(sized.model)
    trained = [(name, p) for name, p in sized.model.named_parameters() if p.requires_grad]
    whole = sum(optimizer.state_bytes(p.shape, hidden=is_hidden_matrix(name, p, head)) for name, p in trained)
    return ceil(whole / sized.shards)


def _step_bytes(sized: Sized) -> int:
    """Return what a step holds for itself, of a worker's part of the largest parameter."""
    if sized.compute.cpu_offload:
        return 0
    trained = (p.shape for p in sized.model.parameters() if p.requires_grad)
    return ceil(max(map(sized.phase.optimizer.step_bytes, trained), default=0) / sized.shards)


def _held_bytes(model: nn.Module, sized: Sized) -> int:
    """Return a worker's part of a model; buffers are whole on each."""
    parameters, buffers = sum(map(bytes_of, model.parameters())), sum(map(bytes_of, model.buffers()))
    return buffers + (0 if sized.compute.cpu_offload else ceil(parameters / sized.shards))


def _gathered(model: nn.Module, sized: Sized) -> int:
    """Return what FSDP2 gathers beside its shards: what is outside of layers, and two layers with a gradient each."""
    if not sized.sharded:
        return 0
    width = 2 if _gathers_bf16(model, sized) else 4
    layers = [[*layer.parameters()] for layer in transformer_layers(model)]
    inside = {id(p) for layer in layers for p in layer}
    outside = sum(p.numel() for p in model.parameters() if id(p) not in inside)
    largest = max((sum(p.numel() for p in layer) for layer in layers), default=0)
    trained = max((sum(p.numel() for p in layer if p.requires_grad) for layer in layers), default=0)
    return width * (outside + 2 * largest) + 4 * trained  # gradients are added up in fp32


def _gathers_bf16(model: nn.Module, sized: Sized) -> bool:
    return sized.precision == "bf16" and not any(True for _ in batch_norms(model))


def _passes(sized: Sized, shapes: nn.Module, beside: Mapping[str, nn.Module]) -> tuple[Held, Held]:
    """Count the widest micro-batch's pass there and back, and that of a validation."""
    compute = sized.compute
    if sized.sharded and _gathers_bf16(shapes, sized):
        for parameter in shapes.parameters():
            parameter.data = parameter.data.bfloat16()
    config, words = plain_model(shapes).config, _words(shapes)
    live = LiveBytes(shapes, beside, words)
    checkpoint_activations(live.model, compute.activation_checkpointing)
    if compute.pack_tokens is not None and config._attn_implementation == "sdpa":
        plain_model(live.model).set_attn_implementation(NAME)
    asking = Asking(
        minimised(sized.phase, sized.train),
        live.model,
        Collator.of(live.model, torch.device("cpu")),
        Group(rank=0, world_size=1, device=torch.device("cpu")),
        companions=live.companions,
        precision=sized.precision,
        pack_tokens=compute.pack_tokens,
    )
    asking.remembers(None, None, sized.phase.self_kl)  # the average takes the weights' place, and is counted apart

    def there_and_back() -> None:
        split, rows = widest(sized.train, sized.rows, compute.pack_tokens)
        asking.loss(split, asking.pieces(split, rows)[0][0]).total.backward()

    @torch.no_grad()
    def there() -> None:
        share = ceil(sized.batch_rows(sized.validation, 2) / sized.workers)  # as the loop validates
        split, rows = widest(sized.validation, min(compute.micro_batch_size or share, share), compute.pack_tokens)
        asking.loss(split, asking.pieces(split, rows)[0][0])

    into_training(live.model, updated=False, dropout=asking.drops_out)
    way = "handed on" if sized.hands_on else "kept" if sized.accumulates else "none"
    training = live.peak(there_and_back, gradients=way)
    live.model.eval()
    return training, live.peak(there) if any(map(len, sized.validation)) else Held()


def _writing(sized: Sized, shapes: nn.Module) -> Held:
    """Count what a policy holds while it writes: keys and values of every token, and one token's distributions."""
    objective = sized.phase.objective
    if not isinstance(objective, PolicyObjective):
        return Held()
    config = text_config(plain_model(shapes).config)
    heads: int = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width: int = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    tokens = max((int(split.sizes.max()) for split in sized.train if len(split)), default=0)
    number = 2 if sized.precision == "bf16" else 4
    cache = 2 * config.num_hidden_layers * heads * width * tokens * number * sized.rows
    # One layer's is copied while it grows; the distributions are in float32, and twice in float64 to draw from.
    return Held(
        activations=cache + cache // config.num_hidden_layers, logits=(2 * 4 + 2 * 8) * _words(shapes) * sized.rows
    )


def _words(model: nn.Module) -> int:
    """Return the words that a language model predicts, and 0 for others."""
    layer = getattr(plain_model(model), "get_output_embeddings", lambda: None)()
    weight = getattr(layer, "weight", None)
    return 0 if weight is None else int(weight.shape[0])


def widest(
    splits: Sequence[PreparedSplit], rows: int, pack_tokens: int | None
) -> tuple[PreparedSplit, Int[np.ndarray, " rows"]]:
    """Return the widest rows there are, as many as a micro-batch or a pack holds, and the split that they are of.

    A batch is as wide as its longest source and its longest target, which may be two rows': both are among them, in
    the place of the last.
    """
    split = max((one for one in splits if len(one)), key=lambda one: int(one.sizes.max()))
    order = np.argsort(-split.sizes, kind="stable")
    if pack_tokens is None:
        longest = [int(np.argmax(lengths)) for lengths in split.lists.values()]
        first = order[:rows]
        missing = [row for row in dict.fromkeys(longest) if row not in first][: max(0, len(first) - 1)]
        return split, np.concatenate([first[: len(first) - len(missing)], np.array(missing, first.dtype)])
    fitting = int(np.searchsorted(np.cumsum(split.sizes[order]), pack_tokens, side="right"))
    return split, order[: max(1, fitting)]
