"""The first layers stay as they are."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ftlib.config import Config


class FrozenLayers(Config):
    """Embeddings and the first `layers` transformer layers are frozen, bit for bit; `also` names more by regex."""

    kind: Literal["frozen_layers"] = "frozen_layers"
    layers: int = Field(ge=0)
    also: tuple[str, ...] = ()
    layer_decay: float = Field(default=1.0, gt=0.0, le=1.0)
