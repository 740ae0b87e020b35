"""Prefix tuning: keys and values before a row's own, in every layer."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from ftlib.config import BatchKind
from ftlib.kinds.kind import KINDS
from ftlib.training.tuning.soft_prompts import SoftPrompt

if TYPE_CHECKING:
    from torch import nn


class PrefixTuning(SoftPrompt):
    """Every layer attends to `virtual_tokens` more keys and values, which are learnt (Li & Liang 2021, 2101.00190).

    By peft. The head is trained in full. The model must take keys and values from before (`past_key_values`), as
    decoders do, and encoders of BERT's and RoBERTa's kind.
    """

    kind: Literal["prefix_tuning"] = "prefix_tuning"
    projection: bool = False
    """Learn them through a network of two layers, which is thrown away at the end: steadier, as the authors found, and
    a phase cannot go on with it."""
    hidden: int | None = Field(default=None, gt=0)
    """Width of that network; null: the model's own."""

    makes: ClassVar[str] = "PREFIX_TUNING"
    recomputes: ClassVar[bool] = False

    @property
    @override
    def takes_over(self) -> frozenset[str]:
        return frozenset() if self.projection else frozenset({"PREFIX_TUNING"})

    @override
    def settings(self, model: nn.Module, kind: BatchKind, head: Collection[str]) -> Any:
        """Return peft's config."""
        from peft import PrefixTuningConfig

        width: dict[str, Any] = {} if self.hidden is None else {"encoder_hidden_size": self.hidden}
        return PrefixTuningConfig(
            task_type=KINDS[kind].task_type,
            num_virtual_tokens=self.virtual_tokens,
            prefix_projection=self.projection,
            modules_to_save=self.whole_modules(kind, head),
            **width,
        )
