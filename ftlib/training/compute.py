"""The recipe's `compute`: where and how fast."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from ftlib.fingerprint import Identified

_POLICIES = ("none", "selective", "full")


def _policy_or_number(value: object) -> object:
    """Refuse what is neither, in one sentence; a union of its own would say one of each member."""
    if value not in _POLICIES and (not isinstance(value, int) or isinstance(value, bool) or value < 2):
        raise ValueError(f"got {value!r}, allowed are {', '.join(_POLICIES)} and whole numbers from 2 on")
    return value


Checkpointing = Literal["none", "selective", "full"] | Annotated[int, Field(ge=2)]


class Compute(Identified):
    """Where and how fast; it stands for no bytes, so it is never part of a fingerprint."""

    workers: int = Field(default=1, ge=0)
    """Ray Train workers; 0 trains in this process."""
    use_gpu: bool = False
    """One GPU for each worker; without one the run does not start."""
    evaluation_workers: int = Field(default=1, ge=1)
    """Ray workers that share the batches of evaluations and `scores`, with the same numbers; 1 is this process."""
    evaluation_memory_mb: int = Field(default=256, ge=0)
    """What each process that evaluates may keep of what its candidates have in common; numbers do not depend on it."""
    data_workers: int = Field(default=0, ge=0)
    """Ray workers that read, clean, compare and tokenise rows, with the same result for any number; 0 is this process."""
    data_worker_memory_mb: int = Field(default=1024, ge=512)
    """What each of them may hold in memory, the program itself included: rows are cut into blocks by it."""
    threads: int | None = Field(default=None, gt=0)
    """CPU threads per worker; all cores divided by the workers if unset."""
    micro_batch_size: int | None = Field(default=None, gt=0)
    """Rows per worker and forward pass; the rest of the global batch is accumulated. The whole share if unset."""
    pack_tokens: int | None = Field(default=None, gt=0)
    """Rows of language models are packed: laid one behind the other, without padding, up to so many tokens per worker
    and forward pass; the rest of the global batch is accumulated. null: rows of like length, padded."""
    sharding: Literal["ddp", "fsdp"] = "ddp"
    """fsdp: FSDP2, parameters and optimiser state sharded over the workers. A layer is gathered for its forward pass,
    freed, and gathered again for its backward pass; with bf16 it is gathered in bf16, and masters and gradients stay
    fp32."""
    replicas: int = Field(default=1, gt=0)
    """Above 1, with fsdp: HSDP, so many copies of the model, each sharded over workers / replicas workers next to each
    other. One copy a node keeps the gathering of parameters within nodes: give the number of nodes."""
    activation_checkpointing: Annotated[Checkpointing, BeforeValidator(_policy_or_number)] = "none"
    """What the forward pass leaves for the backward pass, which computes the rest again, layer by layer, with the same
    gradients to the bit. none: everything. selective: what matrix products and attention put out. full: what enters a
    layer. A number n: full for every n-th layer."""
    cpu_offload: bool = False
    """With fsdp on GPUs: weights, gradients and optimiser state are kept in the host's memory, and the optimiser steps
    there; a layer is on the GPU while it computes."""
    compile: bool = False
    """Compile each transformer layer by torch.compile; batches are padded to multiples of 64 tokens. Takes a minute
    before the first step, and needs a C++ compiler on every worker."""
    ray_address: str = "local"
    """local: a Ray of this run's own. http://host:8265: a cluster, through its Jobs API. Never guessed."""
    checkpoint_seconds: float = Field(default=60.0, gt=0.0)
    """Time between checkpoints a killed run resumes from."""
    max_failures: int = Field(default=2, ge=0)
    """Lost workers a run survives."""
    start_timeout_seconds: float = Field(default=60.0, gt=0.0, le=2_592_000.0)
    """How long workers may take to start before the attempt counts as failed."""
    collective_timeout_seconds: float = Field(default=600.0, gt=0.0, le=2_592_000.0)
    """How long a worker waits for the others in one exchange before the run counts as hung."""

    @model_validator(mode="after")
    def _fits_together(self) -> Compute:
        if self.replicas > 1 and self.sharding != "fsdp":
            raise ValueError(
                f"replicas: {self.replicas} copies of a model in shards, but sharding is ddp; set it to fsdp"
            )
        if max(1, self.workers) % self.replicas:
            raise ValueError(
                f"replicas: {self.replicas} copies cannot have the same number of {self.workers} workers; give a "
                "divisor of workers"
            )
        if self.cpu_offload and not (self.use_gpu and self.sharding == "fsdp"):
            raise ValueError(
                "cpu_offload: moves the shards of GPUs to the host's memory, but "
                + ("use_gpu is false; remove it" if not self.use_gpu else "sharding is ddp; set it to fsdp")
            )
        return self

    @property
    def infers_on_ray(self) -> bool:
        """Say whether frozen models are asked, to measure or to score rows, on Ray workers."""
        return self.evaluation_workers > 1

    def digest(self) -> str:
        """Return the same for every value: identity is not runtime."""
        return ""
