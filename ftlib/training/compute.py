"""The recipe's `compute`: where and how fast."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from ftlib.config import Config
from ftlib.fingerprint import Identified

_POLICIES = ("none", "selective", "full")


def _policy_or_number(value: object) -> object:
    """Refuse what is neither, in one sentence; a union of its own would say one of each member."""
    if value not in _POLICIES and (not isinstance(value, int) or isinstance(value, bool) or value < 2):
        raise ValueError(f"got {value!r}, allowed are {', '.join(_POLICIES)} and whole numbers from 2 on")
    return value


Checkpointing = Literal["none", "selective", "full"] | Annotated[int, Field(ge=2)]


def _number_or_elastic(value: object) -> object:
    """Refuse what is neither, in one sentence; a union of its own would say one of each member."""
    if isinstance(value, dict):
        try:
            return Elastic.model_validate(value)
        except ValidationError as error:
            problem = error.errors(include_url=False, include_input=False)[0]
            where = "".join(f"{part}: " for part in problem["loc"])
            raise ValueError(where + problem["msg"].removeprefix("Value error, ")) from None
    if isinstance(value, Elastic) or (isinstance(value, int) and not isinstance(value, bool) and value >= 0):
        return value
    raise ValueError(f"got {value!r}, allowed are a whole number from 0 on, or {{at_least: 1, at_most: 4}}")


class Elastic(Config):
    """As many workers as the cluster has room for, between two numbers."""

    at_least: int = Field(ge=1)
    """With fewer it waits."""
    at_most: int = Field(ge=1)
    """It grows up to so many when nodes come, from the last checkpoint on."""

    def __str__(self) -> str:
        return f"{self.at_least} to {self.at_most}"

    @model_validator(mode="after")
    def _in_order(self) -> Elastic:
        if self.at_most < self.at_least:
            raise ValueError(
                f"at_most is {self.at_most} and at_least {self.at_least}; give at_most that number or more, or write "
                "workers as one number"
            )
        return self


class Compute(Identified):
    """Where and how fast; it stands for no bytes, so it is never part of a fingerprint."""

    workers: Annotated[int | Elastic, BeforeValidator(_number_or_elastic)] = 1
    """Ray Train workers; 0 trains in this process. {at_least: 1, at_most: 4}: as many as there is room for, fewer when
    a node is lost and more when one comes, with the same global batches."""
    use_gpu: bool = False
    """One GPU for each worker; without one the run does not start."""
    evaluation_workers: int = Field(default=1, ge=1)
    """Ray workers that share the batches of evaluations and `scores`, with the same numbers; 1 is this process."""
    evaluation_memory_mb: int = Field(default=256, ge=0)
    """What each process that evaluates may keep of what its candidates have in common; numbers do not depend on it."""
    data_workers: int = Field(default=0, ge=0)
    """Ray workers that read, clean, compare and tokenise rows, with the same result for any number; 0: this process."""
    data_worker_memory_mb: int = Field(default=1024, ge=768)
    """What each of them may hold in memory, the 640 MB of program and block included."""
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
    budget: float | None = Field(default=None, ge=0.0)
    """What a run may cost, by the prices that REGLAGE_PRICES names; it stops before it costs more. null: no limit."""
    max_failures: int = Field(default=2, ge=0)
    """Lost workers a run survives."""
    start_timeout_seconds: float = Field(default=60.0, gt=0.0, le=2_592_000.0)
    """How long workers may take to start before the attempt counts as failed."""
    collective_timeout_seconds: float = Field(default=600.0, gt=0.0, le=2_592_000.0)
    """How long a worker waits for the others in one exchange before the run counts as hung."""

    @model_validator(mode="after")
    def _fits_together(self) -> Compute:
        """Refuse settings that no layout of workers can have together."""
        if self.replicas > 1 and self.sharding != "fsdp":
            raise ValueError(
                f"replicas: {self.replicas} copies of a model in shards, but sharding is ddp; set it to fsdp"
            )
        if self.is_elastic and self.replicas > 1:
            raise ValueError(
                f"workers: {self.workers} workers do not always make {self.replicas} copies of as many shards each; "
                "give one number of workers, or leave replicas at 1"
            )
        if max(1, self.most_workers) % self.replicas:
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
    def prepares_on_ray(self) -> bool:
        """Say whether rows are read and prepared on Ray workers."""
        return self.data_workers > 0

    @property
    def is_elastic(self) -> bool:
        """Say whether the number of workers may change while it trains."""
        return not isinstance(self.workers, int)

    @property
    def least_workers(self) -> int:
        """Return how many Ray workers train at least; 0 where this process does."""
        return self.workers if isinstance(self.workers, int) else self.workers.at_least

    @property
    def most_workers(self) -> int:
        """Return how many Ray workers train at most; 0 where this process does."""
        return self.workers if isinstance(self.workers, int) else self.workers.at_most

    def of_group(self, workers: int) -> Compute:
        """Return the settings of a group that has found each other: where their number may change, it is known now."""
        return self.model_copy(update={"workers": workers}) if self.is_elastic else self

    @property
    def infers_on_ray(self) -> bool:
        """Say whether frozen models are asked, to measure or to score rows, on Ray workers."""
        return self.evaluation_workers > 1

    def digest(self) -> str:
        """Return the same for every value: identity is not runtime."""
        return ""
