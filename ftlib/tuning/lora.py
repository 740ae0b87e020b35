"""Low-rank adapters."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ftlib.config import Config


class LoRA(Config):
    """W = W0 + (alpha / rank) B A (Hu et al. 2021, arXiv 2106.09685), by peft; the head is trained in full."""

    kind: Literal["lora"] = "lora"
    rank: int = Field(default=8, gt=0)
    alpha: float = Field(default=16.0, gt=0.0)
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    targets: tuple[str, ...] | Literal["all-linear"] = "all-linear"
    """Module name endings, or every linear layer but the head."""
    use_rslora: bool = False
    use_dora: bool = False
