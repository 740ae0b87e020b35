"""The recipe's `compute`: where and how fast."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ftlib.fingerprint import Identified


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
    threads: int | None = Field(default=None, gt=0)
    """CPU threads per worker; all cores divided by the workers if unset."""
    micro_batch_size: int | None = Field(default=None, gt=0)
    """Rows per worker and forward pass; the rest of the global batch is accumulated. The whole share if unset."""
    sharding: Literal["ddp", "fsdp"] = "ddp"
    """fsdp: FSDP2, parameters and optimiser state sharded over the workers."""
    ray_address: str = "local"
    """local: a Ray of this run's own. http://host:8265: a cluster, through its Jobs API. Never guessed."""
    checkpoint_seconds: float = Field(default=60.0, gt=0.0)
    """Time between checkpoints a killed run resumes from."""
    max_failures: int = Field(default=2, ge=0)
    """Lost workers a run survives."""
    start_timeout_seconds: float = Field(default=60.0, gt=0.0)
    """How long workers may take to start before the attempt counts as failed."""
    collective_timeout_seconds: float = Field(default=600.0, gt=0.0)
    """How long a worker waits for the others in one exchange before the run counts as hung."""

    @property
    def infers_on_ray(self) -> bool:
        """Say whether frozen models are asked, to measure or to score rows, on Ray workers."""
        return self.evaluation_workers > 1

    def digest(self) -> str:
        """Return the same for every value: identity is not runtime."""
        return ""
