"""Adam with decoupled weight decay."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from ftlib.training.optimizers.base import OptimizerBase, ParameterGroup

if TYPE_CHECKING:
    import torch


class AdamLike(OptimizerBase):
    """What is stepped by the running means of the gradient and of its square (Kingma & Ba 2015, arXiv 1412.6980)."""

    beta1: float = Field(default=0.9, ge=0.0, lt=1.0)
    """Decay of the gradient's running mean."""
    beta2: float = Field(default=0.999, ge=0.0, lt=1.0)
    """Decay of the squared gradient's running mean."""
    epsilon: float = Field(default=1e-8, gt=0.0)
    """Added to the root of the squared gradient's mean, against division by zero."""

    @property
    @override
    def largest_step(self) -> float:
        """Return the bound by Cauchy-Schwarz, which gradients that grow by the right factor reach: 7.3 by default.

        Gradients that stay alike give 1 at most. Vectors are stepped by AdamW, whatever steps hidden matrices.
        """
        if self.beta1**2 >= self.beta2:
            return math.inf
        return max(1.0, (1 - self.beta1) / math.sqrt((1 - self.beta2) * (1 - self.beta1**2 / self.beta2)))


class AdamW(AdamLike):
    """AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101), by torch, fused."""

    introduced: ClassVar[Mapping[str, object]] = {"kind": "adamw"}
    steps_shards: ClassVar[bool] = True

    kind: Literal["adamw"] = "adamw"

    @property
    @override
    def title(self) -> str:
        return "AdamW"

    @override
    def build(self, groups: Sequence[ParameterGroup], seed: int) -> torch.optim.Optimizer:
        import torch

        return torch.optim.AdamW(
            [group.settings() for group in groups],
            lr=self.learning_rate,
            betas=(self.beta1, self.beta2),
            eps=self.epsilon,
            fused=True,
        )

    @override
    def state_bytes(self, shape: Sequence[int], *, hidden: bool) -> int:
        return 8 * math.prod(shape)
