"""Which of a phase's trainable parameters learn in a step, where some begin later than others.

A parameter that waits has no gradient, so no optimiser keeps state for it or decays it; modules that compute with
waiting parameters alone are in eval mode, dropout in them off.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from torch import nn

from ftlib.training.group import shard_again


@dataclass(frozen=True)
class Thawing:
    """The step, counted from 0, from which on each parameter that ever trains does."""

    starts: Mapping[str, int]

    @classmethod
    def of(cls, model: nn.Module, thaws: Mapping[str, int]) -> Thawing:
        """Take what trains of a model now, and when a tuning lets it begin; what it does not name, at once."""
        return cls({name: thaws.get(name, 0) for name, p in model.named_parameters() if p.requires_grad})

    @cached_property
    def borders(self) -> list[int]:
        """Return the steps at which something begins to learn, in order; the first is 0."""
        return sorted({0, *self.starts.values()})

    def stage(self, step: int) -> int:
        """Return how many borders a step is at or behind."""
        return sum(border <= step for border in self.borders)

    def waiting(self, step: int) -> frozenset[str]:
        """Return the parameters that do not learn yet in a step."""
        return frozenset(name for name, start in self.starts.items() if start > step)

    def enter(self, model: nn.Module, step: int) -> None:
        """Let those parameters of a model without DDP train that learn in a step, and the others wait."""
        shard_again(model)  # what FSDP2 has gathered takes it from the shards, when it is gathered next
        waiting = self.waiting(step)
        for name, parameter in model.named_parameters():
            if name in self.starts:
                parameter.requires_grad_(name not in waiting)

    def trained(self, sizes: Mapping[str, int], step: int) -> int:
        """Return the sum of the sizes of what learns in a step."""
        return sum(sizes[name] for name, start in self.starts.items() if start <= step)

    def trained_on_average(self, sizes: Mapping[str, int], steps: int) -> float:
        """Return the mean of `trained` over the first `steps` steps."""
        return sum(sizes[name] * max(0, steps - start) for name, start in self.starts.items()) / steps
