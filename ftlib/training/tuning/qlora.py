"""Low-rank adapters over a base in four bits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import field_validator
from typing_extensions import override

from ftlib.models.checkpoint import Quantization
from ftlib.training.tuning.lora import LoRA


class QLoRA(LoRA):
    """LoRA over a base whose linear layers are held in NF4 (Dettmers et al. 2023, arXiv 2305.14314), by bitsandbytes.

    The base is rounded to four bits before the phase, once, and what is merged, mixed and measured is the rounded one:
    alpha 0 is the model that the adapter was trained over. Embeddings and the head stay as they are.
    """

    introduced: ClassVar[Mapping[str, object]] = {"keep": "merged", "b_rate_ratio": 1.0}

    kind: Literal["qlora"] = "qlora"  # pyright: ignore[reportIncompatibleVariableOverride]
    double_quantization: bool = True
    """Round the scale of each 64 weights too, to eight bits: 4.13 bits a weight instead of 4.5."""

    package: ClassVar[str | None] = "bitsandbytes"

    @field_validator("use_dora")
    @classmethod
    def _has_norms(cls, use_dora: bool) -> bool:
        if use_dora:
            raise ValueError("DoRA takes norms of weights, which qlora holds in four bits; use lora, or leave it out")
        return use_dora

    @property
    @override
    def quantization(self) -> Quantization:
        return "nf4_double" if self.double_quantization else "nf4"
