"""Orthogonal steps for matrices."""

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


class Muon(HiddenMatrices):
    """Muon (Jordan et al. 2024), by torch: a matrix's step is its momentum, made orthogonal by Newton-Schulz.

    Steps are scaled to AdamW's usual size, 0.2 * sqrt(longer side) (Liu et al. 2025, arXiv 2502.16982), so that rate
    and weight decay mean the same for the matrices and for what AdamW steps beside them: embeddings, head, vectors.
    """

    kind: Literal["muon"] = "muon"
    momentum: float = Field(default=0.95, ge=0.0, lt=1.0)
    """Share of a matrix's last direction that is kept."""
    nesterov: bool = True
    """Look ahead by the momentum."""
    iterations: int = Field(default=5, gt=0, lt=100)
    """Newton-Schulz iterations of a step."""

    @property
    @override
    def title(self) -> str:
        return "Muon, and AdamW for embeddings, head and vectors"

    @override
    def build(self, groups: Sequence[ParameterGroup], seed: int) -> torch.optim.Optimizer:
        import torch

        from ftlib.training.optimizers.joint import joint

        matrices = torch.optim.Muon(
            self.matrices(groups),
            lr=self.learning_rate,
            momentum=self.momentum,
            nesterov=self.nesterov,
            ns_steps=self.iterations,
            adjust_lr_fn="match_rms_adamw",
        )
        return joint(matrices, self.beside(groups))

    @override
    def state_bytes(self, shape: Sequence[int], *, hidden: bool) -> int:
        return (4 if hidden else 8) * prod(shape)
