"""Every weight moves."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from ftlib.config import BatchKind, Config
from ftlib.models.checkpoint import Form

if TYPE_CHECKING:
    from torch import nn


class Full(Config):
    """Full fine-tuning (Loshchilov & Hutter 2019, arXiv 1711.05101), with layer-wise learning-rate decay.

    Layer i of n, counted from the input, learns at `learning_rate * layer_decay ** (n - i)`; the head at
    `learning_rate` (ULMFiT, arXiv 1801.06146; ELECTRA, arXiv 2003.10555).
    """

    kind: Literal["full"] = "full"
    leaves: ClassVar[Form | None] = "dense"

    layer_decay: float = Field(default=1.0, gt=0.0, le=1.0)
    """What the learning rate is multiplied with from each layer to the one below it; 1: all learn alike."""

    def prepare(self, model: nn.Module, kind: BatchKind, head: Collection[str]) -> nn.Module:
        """Make every parameter trainable."""
        return model.requires_grad_(True)

    def finish(self, model: nn.Module, adapter: Path) -> nn.Module:
        """Return the plain model to be saved."""
        return model
