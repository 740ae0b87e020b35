"""Adam's second moment as a row and a column, and no first one."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, Literal

from pydantic import Field
from typing_extensions import override

from ftlib.training.optimizers.base import OptimizerBase, ParameterGroup

if TYPE_CHECKING:
    import torch


class Adafactor(OptimizerBase):
    """Adafactor (Shazeer & Stern 2018, arXiv 1804.04235), by torch: a matrix of n x m keeps n + m numbers.

    A step is relative: max(1e-3, RMS of the weights) * min(rate, 1 / sqrt(step)), and is cut down where its own RMS is
    above `clip`. So warmup and schedule act while the rate is below 1 / sqrt(step): 1e-3 does for a million steps.
    """

    kind: Literal["adafactor"] = "adafactor"
    learning_rate: float = Field(default=1e-3, gt=0.0)
    """The largest relative step, which warmup rises to and the schedule starts from."""
    beta2_decay: float = Field(default=-0.8, lt=0.0)
    """The squared gradient's running mean forgets with step ** beta2_decay."""
    clip: float = Field(default=1.0, gt=0.0)
    """The largest RMS of a step before the rate."""

    @property
    @override
    def title(self) -> str:
        return "Adafactor"

    @override
    def build(self, groups: Sequence[ParameterGroup], seed: int) -> torch.optim.Optimizer:
        import torch

        return torch.optim.Adafactor(
            [group.settings() for group in groups],
            lr=self.learning_rate,
            beta2_decay=self.beta2_decay,
            d=self.clip,
        )

    @override
    def state_bytes(self, shape: Sequence[int], *, hidden: bool) -> int:
        if len(shape) < 2:
            return 4 * prod(shape)
        *batch, rows, columns = shape
        return 4 * prod(batch) * (rows + columns)

    @override
    def step_bytes(self, shape: Sequence[int]) -> int:
        return 4 * prod(shape)  # what is to be taken away, before it is
