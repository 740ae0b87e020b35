"""Every weight moves."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from ftlib.config import BatchKind
from ftlib.training.tuning.base import TuningBase

if TYPE_CHECKING:
    from torch import nn


class Full(TuningBase):
    """Full fine-tuning (Loshchilov & Hutter 2019, arXiv 1711.05101), with layer-wise learning-rate decay.

    Layer i of n, counted from the input, learns at `learning_rate * layer_decay ** (n - i)`; the head at
    `learning_rate` (ULMFiT, arXiv 1801.06146; ELECTRA, arXiv 2003.10555).
    """

    kind: Literal["full"] = "full"
    layer_decay: float = Field(default=1.0, gt=0.0, le=1.0)
    """What the learning rate is multiplied with from each layer to the one below it; 1: all learn alike."""

    several_heads: ClassVar[bool] = True
    moves_rows: ClassVar[bool] = True
    speeds_up: ClassVar[str] = "raise tuning.layer_decay"

    @override
    def prepare(self, model: nn.Module, kind: BatchKind, head: Collection[str]) -> nn.Module:
        """Make every parameter trainable."""
        return model.requires_grad_(True)
