"""Adam in the gradient's own low-rank space."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, Literal

from pydantic import Field
from typing_extensions import override

from ftlib.training.optimizers.base import ParameterGroup
from ftlib.training.optimizers.hidden import HiddenMatrices

if TYPE_CHECKING:
    import torch


class GaLore(HiddenMatrices):
    """GaLore (Zhao et al. 2024, arXiv 2403.03507): Adam in the space of the gradient's first singular vectors.

    P has `rank` of them, on the shorter side, taken anew every `refresh` steps: moments of P G, steps of P' times them.
    """

    kind: Literal["galore"] = "galore"
    rank: int = Field(default=128, gt=0)
    """Singular vectors of each matrix's gradient; at most its shorter side."""
    refresh: int = Field(default=200, gt=0)
    """Steps between two decompositions."""
    scale: float = Field(default=0.25, gt=0.0)
    """What a matrix's step is multiplied with, as a rate would."""

    @property
    @override
    def title(self) -> str:
        return f"GaLore of rank {self.rank}, and AdamW for embeddings, head and vectors"

    @override
    def build(self, groups: Sequence[ParameterGroup], seed: int) -> torch.optim.Optimizer:
        from ftlib.training.optimizers.joint import joint
        from ftlib.training.optimizers.low_rank import GaLoreSteps

        betas = (self.beta1, self.beta2)
        matrices = GaLoreSteps(
            self.matrices(groups), self.learning_rate, betas, self.epsilon, self.rank, self.refresh, self.scale
        )
        return joint(matrices, self.beside(groups))

    @override
    def state_bytes(self, shape: Sequence[int], *, hidden: bool) -> int:
        return low_rank_bytes(shape, self.rank) if hidden else 8 * prod(shape)


def low_rank_bytes(shape: Sequence[int], rank: int) -> int:
    """Return the bytes of two moments in a low-rank space, and of the projection into it."""
    short, long = min(shape), max(shape)
    return 4 * min(rank, short) * (2 * long + short)
