"""The first layers stay as they are."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from ftlib.config import BatchKind, Config
from ftlib.counted import some
from ftlib.errors import RecipeError
from ftlib.parameter_names import is_embedding, layer_of

if TYPE_CHECKING:
    from torch import nn


class FrozenLayers(Config):
    """Embeddings and the first `layers` transformer layers are frozen, bit for bit; `also` names more by regex."""

    kind: Literal["frozen_layers"] = "frozen_layers"
    layers: int = Field(ge=0)
    also: tuple[str, ...] = ()
    """Regular expressions, searched for in parameter names."""
    layer_decay: float = Field(default=1.0, gt=0.0, le=1.0)

    def prepare(self, model: nn.Module, kind: BatchKind, head: Collection[str]) -> nn.Module:
        """Freeze the named parameters. Raises RecipeError if a pattern matches nothing or nothing is left to train."""
        names = [name for name, _ in model.named_parameters()]
        depth = 1 + max((layer for name in names if (layer := layer_of(name)) is not None), default=-1)
        if self.layers > depth:
            raise RecipeError(f"tuning.layers: the model has {depth} layers, got {self.layers}")
        for pattern in self.also:
            if not any(re.search(pattern, name) for name in names):
                raise RecipeError(f"tuning.also: {pattern!r} matches no parameter; there are {some(names, 3)}")
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(not self._freezes(name))
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise RecipeError("tuning: every parameter is frozen; nothing is left to train")
        return model

    def _freezes(self, name: str) -> bool:
        layer = layer_of(name)
        low = is_embedding(name) if layer is None else layer < self.layers
        return low or any(re.search(pattern, name) for pattern in self.also)

    def finish(self, model: nn.Module, adapter: Path) -> nn.Module:
        """Return the plain model to be saved."""
        return model
