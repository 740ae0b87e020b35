"""Steps of matrices by Adam's moments in a space of low rank: GaLore and APOLLO.

Of a gradient G of m x n, with its shorter side first: R = P G is rank x longer side, and Adam's two moments are R's.
All state is tensors, the projection among it, so a resumed run goes on to the same bits; what is drawn at random is
drawn from (seed, matrix, refresh) and not from torch's generator, which differs between ranks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override


class LowRankSteps(torch.optim.Optimizer, ABC):
    """Adam's direction in a space of low rank, and what a method makes of it."""

    def __init__(
        self,
        groups: Sequence[dict[str, Any]],
        rate: float,
        betas: tuple[float, float],
        epsilon: float,
        rank: int,
        refresh: int,
        scale: float,
    ) -> None:
        """Take groups of matrices; their `weight_decay` is decoupled, as AdamW's."""
        self._betas, self._epsilon = betas, epsilon
        self._rank, self._refresh, self._scale = rank, refresh, scale
        super().__init__(groups, {"lr": rate})

    @torch.no_grad()
    @override
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Step every matrix that has a gradient."""
        number = -1
        for group in self.param_groups:
            for matrix in group["params"]:
                number += 1
                if matrix.grad is None:
                    continue
                state = self.state[matrix]
                matrix.mul_(1.0 - group["lr"] * group["weight_decay"])
                wide = matrix.shape[0] < matrix.shape[1]
                gradient = matrix.grad if wide else matrix.grad.T
                step = self._direction(gradient, state, number)
                matrix.add_(step if wide else step.T, alpha=-group["lr"] * self._scale)

    def _direction(
        self, gradient: Float[Tensor, "short long"], state: dict[str, Any], number: int
    ) -> Float[Tensor, "short long"]:
        """Return a matrix's step before it is scaled: Adam's, taken in the space that its gradient is projected to."""
        if not state:
            rank = min(self._rank, gradient.shape[0])
            state["step"] = torch.zeros((), dtype=torch.float32)
            state["projection"] = gradient.new_zeros(rank, gradient.shape[0])
            state["exp_avg"] = gradient.new_zeros(rank, gradient.shape[1])
            state["exp_avg_sq"] = gradient.new_zeros(rank, gradient.shape[1])
        done = int(state["step"])
        if done % self._refresh == 0:
            state["projection"].copy_(self._projection(gradient, state["projection"].shape[0], number, done))
        state["step"] += 1
        projected = state["projection"] @ gradient
        (beta1, beta2), mean, square = self._betas, state["exp_avg"], state["exp_avg_sq"]
        mean.lerp_(projected, 1.0 - beta1)
        square.mul_(beta2).addcmul_(projected, projected, value=1.0 - beta2)
        root = (square / (1.0 - beta2 ** (done + 1))).sqrt_().add_(self._epsilon)
        adam = (mean / (1.0 - beta1 ** (done + 1))).div_(root)
        return self._back(adam, projected, gradient, state)

    @abstractmethod
    def _projection(
        self, gradient: Float[Tensor, "short long"], rank: int, number: int, done: int
    ) -> Float[Tensor, "rank short"]:
        """Return the projection of the matrix that is the `number`th of this optimiser, after so many steps."""

    @abstractmethod
    def _back(
        self,
        adam: Float[Tensor, "rank long"],
        projected: Float[Tensor, "rank long"],
        gradient: Float[Tensor, "short long"],
        state: dict[str, Any],
    ) -> Float[Tensor, "short long"]:
        """Return the matrix's step of Adam's step in the space of low rank."""


class GaLoreSteps(LowRankSteps):
    """Projects on the gradient's first singular vectors, and Adam's step back on them."""

    @override
    def _projection(
        self, gradient: Float[Tensor, "short long"], rank: int, number: int, done: int
    ) -> Float[Tensor, "rank short"]:
        left, _, _ = torch.linalg.svd(gradient.float(), full_matrices=False)
        return left[:, :rank].T.to(gradient.dtype)

    @override
    def _back(
        self,
        adam: Float[Tensor, "rank long"],
        projected: Float[Tensor, "rank long"],
        gradient: Float[Tensor, "short long"],
        state: dict[str, Any],
    ) -> Float[Tensor, "short long"]:
        return state["projection"].T @ adam


_TINY = 1e-8
"""Against a division by the norm of a gradient that is 0."""
_GROWTH = 1.01
"""How much a step's norm may grow from one to the next (Chen et al. 2024, Fira, arXiv 2410.01623)."""


class APOLLOSteps(LowRankSteps):
    """Scales the whole gradient as Adam scales its random projection."""

    def __init__(self, *settings: Any, by_channel: bool, seed: int) -> None:
        """Take what all low-rank steps take, and from which seed projections are drawn."""
        self._by_channel, self._seed = by_channel, seed
        super().__init__(*settings)

    @override
    def _projection(
        self, gradient: Float[Tensor, "short long"], rank: int, number: int, done: int
    ) -> Float[Tensor, "rank short"]:
        random = np.random.default_rng([self._seed, number, done // self._refresh])
        drawn = random.standard_normal((rank, gradient.shape[0]), np.float32) / np.float32(np.sqrt(rank))
        return torch.from_numpy(drawn).to(gradient)

    @override
    def _back(
        self,
        adam: Float[Tensor, "rank long"],
        projected: Float[Tensor, "rank long"],
        gradient: Float[Tensor, "short long"],
        state: dict[str, Any],
    ) -> Float[Tensor, "short long"]:
        over = 0 if self._by_channel else None
        scaling = torch.linalg.vector_norm(adam, dim=over) / (torch.linalg.vector_norm(projected, dim=over) + _TINY)
        step = gradient * scaling
        norm = torch.linalg.vector_norm(step)
        if "norm" not in state:
            state["norm"] = norm.clone()
        else:
            growth = torch.clamp(norm / (state["norm"] + _TINY), min=_GROWTH) / _GROWTH
            step = step / growth
            state["norm"].copy_(norm / growth)
        return step
