"""strength/2 * ||w - target||^2 of many parameters: what L2-SP, EWC and their kin are made of."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from typing_extensions import override

from ftlib.training.group import own_part
from ftlib.training.penalties.base import Pull


class Quadratic(Pull):
    """A pull of each parameter to what it was when this was made, or to 0."""

    def __init__(self, parameters: Sequence[tuple[nn.Parameter, float | torch.Tensor, bool]]) -> None:
        """Take parameters with the strength of their pull; True: to their values now, False: to 0.

        A strength is one number, or one for each element of this rank's part of the parameter.
        """
        self._pulls = [
            (parameter, strength, own_part(parameter).clone() if back else None)
            for parameter, strength, back in parameters
            if isinstance(strength, torch.Tensor) or strength
        ]

    @torch.no_grad()
    @override
    def add_gradient(self) -> torch.Tensor:
        loss = torch.zeros((), dtype=torch.float64)
        for parameter, strength, target in self._pulls:
            if not parameter.requires_grad:  # it waits for its turn, and a gradient would have it stepped
                continue
            weights = own_part(parameter)
            away = weights if target is None else weights - target
            if parameter.grad is None:  # nothing of this batch reached it: the pull does
                parameter.grad = torch.zeros_like(parameter)
            if isinstance(strength, torch.Tensor):
                own_part(parameter.grad).addcmul_(away, strength)
                loss = loss + (away.double().square() * strength).sum() / 2
                continue
            own_part(parameter.grad).add_(away, alpha=strength)
            loss = loss + strength / 2 * away.double().square().sum()
        return loss
