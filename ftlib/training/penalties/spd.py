"""A projection towards where the training started, of those tensors that the gradient sends back there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field
from typing_extensions import override

from ftlib.models.parameter_names import in_modules
from ftlib.training.penalties.base import PenaltyBase, Pull, Start

if TYPE_CHECKING:
    from torch import Tensor, nn


class SPD(PenaltyBase):
    """Selective projection decay (Tian et al. 2024, arXiv 2411.01713): a tensor at a time, behind the optimiser's step.

    w0 is a tensor at the start, w before a step, w' behind it, g its gradient. Where <g, w - w0> > 0, so that the loss
    itself falls towards the start, w' is moved by strength * r * (w0 - w') with r = (|w' - w0| - |w - w0|) / |w' - w0|
    between 0 and 1. At strength 1 such a tensor is put back to the distance that it had before the step. What still
    gains by going away is left alone, as is a fresh head.
    """

    kind: Literal["spd"]
    strength: float = Field(default=1.0, ge=0.0)
    """How far such a tensor is moved back: 1 takes back what the step added to its distance, 0 nothing."""

    def start(self, at: Start) -> Pull:
        """Copy the weights before step 0."""
        named = at.model.named_parameters()
        trained = [p for name, p in named if p.requires_grad and not in_modules(name, at.fresh)]
        return _Projection(trained, self.strength, at.over_shards)


class _Projection(Pull):
    def __init__(
        self, parameters: Sequence[nn.Parameter], strength: float, over_shards: Callable[[Tensor], Tensor]
    ) -> None:
        from ftlib.training.group import own_part

        self._starts = [(parameter, own_part(parameter).clone()) for parameter in parameters]
        self._strength, self._over_shards = strength, over_shards
        self._before: Tensor | None = None

    @override
    def add_gradient(self) -> Tensor:
        """Add nothing: note where the gradient leads, and return half of the squared distance from the start."""
        import torch

        from ftlib.training.group import own_part

        if not self._starts:
            return torch.zeros((), dtype=torch.float64)
        rows: list[Tensor] = []
        for parameter, start in self._starts:
            away = own_part(parameter).double() - start
            gradient = torch.zeros_like(away) if parameter.grad is None else own_part(parameter.grad).double()
            rows.append(torch.stack([(gradient * away).sum(), away.square().sum()]))
        self._before = torch.stack(rows)
        return self._before[:, 1].sum() / 2

    @override
    def after_step(self) -> None:
        import torch

        from ftlib.training.group import own_part

        if self._before is None:
            return
        after = torch.stack([(own_part(p).double() - start).square().sum() for p, start in self._starts])
        leads_away, before, behind = self._over_shards(torch.cat([self._before, after[:, None]], dim=1)).unbind(dim=1)
        gone, now = before.sqrt(), behind.sqrt()
        ratio = torch.where(now > 0, (now - gone) / now.clamp(min=torch.finfo(now.dtype).tiny), 0.0).clamp(0.0, 1.0)
        shares = torch.where(leads_away > 0, self._strength * ratio, 0.0)
        with torch.no_grad():
            for (parameter, start), share in zip(self._starts, shares, strict=True):
                weights = own_part(parameter)
                # Offloaded shards are on the CPU, and what was added up over them is on the GPU.
                weights.sub_((weights - start) * share.to(weights.device, weights.dtype))
