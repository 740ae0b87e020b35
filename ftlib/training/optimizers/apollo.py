"""SGD whose channels are scaled as Adam would scale them."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod, sqrt
from typing import TYPE_CHECKING, Literal

from pydantic import Field
from typing_extensions import override

from ftlib.training.optimizers.base import ParameterGroup
from ftlib.training.optimizers.galore import low_rank_bytes
from ftlib.training.optimizers.hidden import HiddenMatrices

if TYPE_CHECKING:
    import torch


class APOLLO(HiddenMatrices):
    """APOLLO (Zhu et al. 2024, arXiv 2412.05270): the whole gradient, each channel times Adam's scaling of it.

    The scaling ||Adam(R)|| / ||R|| is learnt of a random projection R of the gradient, drawn anew every `refresh`
    steps; a step's norm grows by at most 1 % from step to step. `per: tensor` with `rank: 1` is APOLLO-Mini.
    """

    kind: Literal["apollo"] = "apollo"
    rank: int = Field(default=256, gt=0)
    """Of the projection; at most a matrix's shorter side."""
    refresh: int = Field(default=200, gt=0)
    """Steps between two draws of the projection."""
    per: Literal["channel", "tensor"] = "channel"
    """What has a scaling of its own: each channel along the longer side, or the matrix."""
    scale: float | None = Field(default=None, gt=0.0)
    """What a matrix's step is multiplied with; null: 1 by channel and sqrt(128) by tensor, as in the paper."""

    @property
    @override
    def title(self) -> str:
        return f"APOLLO of rank {self.rank} per {self.per}, and AdamW for embeddings, head and vectors"

    @override
    def build(self, groups: Sequence[ParameterGroup], seed: int) -> torch.optim.Optimizer:
        from ftlib.training.optimizers.joint import joint
        from ftlib.training.optimizers.low_rank import APOLLOSteps

        scale = self.scale or (1.0 if self.per == "channel" else sqrt(128))
        betas = (self.beta1, self.beta2)
        matrices = APOLLOSteps(
            self.matrices(groups),
            self.learning_rate,
            betas,
            self.epsilon,
            self.rank,
            self.refresh,
            scale,
            by_channel=self.per == "channel",
            seed=seed,
        )
        return joint(matrices, self.beside(groups))

    @override
    def state_bytes(self, shape: Sequence[int], *, hidden: bool) -> int:
        return low_rank_bytes(shape, self.rank) + 4 if hidden else 8 * prod(shape)
