"""What all optimisers have in common: the rate and its schedule, how long, how much a step reads; and their words."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from ftlib.config import Config, Fraction

if TYPE_CHECKING:
    import torch
    from torch import nn

Schedule = Literal["linear", "cosine", "constant", "plateau", "inverse_sqrt", "warmup_stable_decay", "one_cycle"]


@dataclass(frozen=True)
class ParameterGroup:
    """Trainable parameters that are stepped alike."""

    parameters: Sequence[nn.Parameter]
    scale: float
    """The factor of the learning rate: layer-wise decay's, times the tuning's own."""
    weight_decay: float
    """0 for biases, norms and other vectors."""
    hidden: bool
    """They are matrices of the body's layers: neither embeddings, nor the head, nor vectors."""

    def settings(self) -> dict[str, Any]:
        """Return the group as torch's optimisers take one; the loop reads `scale` before every step."""
        return {"params": [*self.parameters], "scale": self.scale, "weight_decay": self.weight_decay}


class OptimizerBase(Config, ABC):
    """How a phase's weights move, and for how long. All of it is part of a checkpoint's identity."""

    introduced: ClassVar[Mapping[str, object]] = {"floor": 0.0, "decay": 0.2, "batch_tokens": None}
    steps_shards: ClassVar[bool] = False
    """Whether it steps the shards of FSDP2 as it steps whole tensors."""
    steps_hidden_apart: ClassVar[bool] = False
    """Whether it steps the matrices of the body's layers in another way than the rest."""

    package: ClassVar[str | None] = None
    """The package that it needs and a plain installation lacks; the extra that brings it is called the same."""
    without_package: ClassVar[str] = "adamw"
    """What to use where that is not installed."""

    learning_rate: float = Field(default=2e-5, gt=0.0)
    """The highest one, which warmup rises to and the schedule starts from."""
    epochs: float = Field(default=3.0, gt=0.0)
    """Passes over the training rows; a part of one is allowed."""
    batch_size: int = Field(default=32, gt=0)
    """Rows per optimiser step, over all workers."""
    batch_tokens: int | None = Field(default=None, gt=0)
    """Instead of `batch_size`: tokens per optimiser step, over all workers: a step's rows times the longest of them. A
    longer row is a step of its own."""
    weight_decay: float = Field(default=0.01, ge=0.0)
    """Each step takes rate times this share of a weight away (`sgd` adds it to the gradient). Not applied to biases
    and norms."""
    clip_norm: float | None = Field(default=1.0, gt=0.0)
    """A step's gradient is scaled down to at most this L2 norm; null: never."""
    schedule: Schedule = "linear"
    """After warmup. linear and cosine fall to `floor` at the last step, plateau where the validation loss stays,
    inverse_sqrt with the root of the step; warmup_stable_decay falls over the last `decay` of the steps; one_cycle
    rises from 1/25 by a cosine, and falls by one to next to nothing."""
    warmup: Fraction = 0.06
    """Share of all steps over which the rate rises from 0."""
    floor: Fraction = 0.0
    """Share of the highest rate that linear, cosine and warmup_stable_decay end at."""
    decay: Fraction = 0.2
    """Share of all steps over which the rate falls at the end; only for `warmup_stable_decay`."""
    plateau_factor: float = Field(default=0.5, gt=0.0, lt=1.0)
    """What the rate is multiplied with at each cut; only for `plateau`."""
    plateau_patience: int = Field(default=1, ge=0)
    """The rate is cut after more than so many evaluations without a lower validation loss; only for `plateau`."""

    @model_validator(mode="after")
    def _one_size(self) -> OptimizerBase:
        rows = type(self).model_fields["batch_size"].default
        if self.batch_tokens is not None and self.batch_size != rows:
            raise ValueError(
                f"batch_size: {self.batch_size} and batch_tokens: {self.batch_tokens}: a step has so many rows or so "
                "many tokens; remove one"
            )
        return self

    @property
    def batch_words(self) -> str:
        """Say how much a step reads: `32`, or `4096 tokens`."""
        return str(self.batch_size) if self.batch_tokens is None else f"{self.batch_tokens} tokens"

    @property
    @abstractmethod
    def title(self) -> str:
        """What the model card calls it."""

    @property
    def largest_step(self) -> float:
        """The most that a step changes an element of a vector by, at a rate of 1; infinite: as the gradient says."""
        return math.inf

    @abstractmethod
    def build(self, groups: Sequence[ParameterGroup], seed: int) -> torch.optim.Optimizer:
        """Return what steps these parameters, on whatever device they are; `seed` is for what it draws.

        Its state lies in `state_dict` as tensors and numbers, so that a resumed run goes on to the same bits. Raises
        RecipeError for a setting that these parameters cannot meet, or a package that is not installed.
        """

    @abstractmethod
    def state_bytes(self, shape: Sequence[int], *, hidden: bool) -> int:
        """Return the bytes that it keeps for a trained parameter of this shape between steps."""

    def step_bytes(self, shape: Sequence[int]) -> int:
        """Return the bytes that its step makes of a parameter of this shape and drops again, parameter by parameter."""
        return 0
