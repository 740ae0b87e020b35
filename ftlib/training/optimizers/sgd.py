"""Stochastic gradient descent with momentum."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from ftlib.training.optimizers.base import OptimizerBase, ParameterGroup

if TYPE_CHECKING:
    import torch


class SGD(OptimizerBase):
    """SGD with momentum (Sutskever et al. 2013), by torch: one number per weight instead of Adam's two, or none.

    Its rate is not Adam's: a step is as large as the gradient, so 0.01 to 0.1 where Adam has 1e-5 to 1e-3. torch adds
    the weight decay to the gradient, which for SGD is the same as taking it from the weight, but for the momentum.
    """

    steps_shards: ClassVar[bool] = True

    kind: Literal["sgd"] = "sgd"
    learning_rate: float = Field(default=0.01, gt=0.0)
    """The highest one, which warmup rises to and the schedule starts from."""
    momentum: float = Field(default=0.9, ge=0.0, lt=1.0)
    """Share of the last step's direction that is kept; 0 keeps no state at all."""
    nesterov: bool = False
    """Look ahead by the momentum (Nesterov's acceleration)."""

    @property
    @override
    def title(self) -> str:
        return f"SGD with momentum {self.momentum:g}" if self.momentum else "SGD"

    @override
    def build(self, groups: Sequence[ParameterGroup], seed: int) -> torch.optim.Optimizer:
        import torch

        return torch.optim.SGD(
            [group.settings() for group in groups],
            lr=self.learning_rate,
            momentum=self.momentum,
            nesterov=self.nesterov and self.momentum > 0,
        )

    @override
    def state_bytes(self, shape: Sequence[int], *, hidden: bool) -> int:
        return 4 * prod(shape) if self.momentum else 0

    @override
    def step_bytes(self, shape: Sequence[int]) -> int:
        return 4 * prod(shape) if self.weight_decay else 0  # a gradient with the decay in it
