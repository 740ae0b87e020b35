"""Optimisers for the matrices of the body's layers; embeddings, heads and vectors go by AdamW beside them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from ftlib.errors import RecipeError
from ftlib.training.optimizers.adamw import AdamLike
from ftlib.training.optimizers.base import ParameterGroup

if TYPE_CHECKING:
    import torch


class HiddenMatrices(AdamLike):
    """What steps hidden matrices in a way of its own."""

    steps_hidden_apart: ClassVar[bool] = True

    def beside(self, groups: Sequence[ParameterGroup]) -> torch.optim.Optimizer | None:
        """Return AdamW over the parameters that are no hidden matrices; None if there are none."""
        import torch

        rest = [group.settings() for group in groups if not group.hidden]
        if not rest:
            return None
        return torch.optim.AdamW(
            rest, lr=self.learning_rate, betas=(self.beta1, self.beta2), eps=self.epsilon, fused=True
        )

    def matrices(self, groups: Sequence[ParameterGroup]) -> list[dict[str, Any]]:
        """Return the groups of hidden matrices as torch takes them. Raises RecipeError if none trains."""
        hidden = [group.settings() for group in groups if group.hidden]
        if not hidden:
            raise RecipeError(
                f"optimizer: {getattr(self, 'kind', '')!r} is made for the matrices of the body's layers, and none of "
                "them trains; use adamw"
            )
        return hidden
