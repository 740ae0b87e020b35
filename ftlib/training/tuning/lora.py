"""Low-rank adapters."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from pydantic import Field
from typing_extensions import override

from ftlib.config import BatchKind
from ftlib.errors import RecipeError, first_line
from ftlib.kinds.kind import KINDS
from ftlib.training.tuning.base import TuningBase

if TYPE_CHECKING:
    from torch import nn


class LoRA(TuningBase):
    """W = W0 + (alpha / rank) B A (Hu et al. 2021, arXiv 2106.09685), by peft; the head is trained in full.

    `use_rslora` scales by alpha / sqrt(rank) (arXiv 2312.03732); `use_dora` splits magnitude and direction
    (arXiv 2402.09353). The checkpoint holds the merged weights, so what follows needs to know nothing of adapters.
    """

    kind: Literal["lora"] = "lora"
    rank: int = Field(default=8, gt=0)
    """Columns of B and rows of A."""
    alpha: float = Field(default=16.0, gt=0.0)
    """The update is scaled by alpha / rank."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of an adapter's inputs that is dropped in training."""
    targets: tuple[str, ...] | Literal["all-linear"] = "all-linear"
    """Module name endings, or every linear layer but the head."""
    use_rslora: bool = False
    """Scale by alpha / sqrt(rank) instead."""
    use_dora: bool = False
    """Learn magnitude and direction apart."""

    layer_decay: ClassVar[float] = 1.0
    makes_adapter: ClassVar[bool] = True

    @property
    @override
    def adapter_scales(self) -> bool:
        """DoRA normalises after adding: its adapter times alpha is another model."""
        return not self.use_dora

    @override
    def prepare(self, model: nn.Module, kind: BatchKind, head: Collection[str]) -> nn.Module:
        """Wrap the model with adapters from torch's current seed. Raises RecipeError if `targets` matches nothing."""
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(
            task_type=KINDS[kind].task_type,
            r=self.rank,
            lora_alpha=cast(int, self.alpha),  # peft annotates int, divides as float
            lora_dropout=self.dropout,
            target_modules=self.targets if isinstance(self.targets, str) else list(self.targets),
            modules_to_save=None if KINDS[kind].language else sorted(head),
            use_rslora=self.use_rslora,
            use_dora=self.use_dora,
        )
        try:
            return cast("nn.Module", get_peft_model(cast(Any, model), config))
        except ValueError as error:
            raise RecipeError(
                f"tuning.targets: {self.targets!r} fits no module of this model: {first_line(error)}; name modules "
                "it has"
            ) from error

    @override
    def finish(self, model: nn.Module, adapter: Path) -> nn.Module:
        """Write the adapter as peft does, and return the model with it merged into the weights."""
        wrapped = cast(Any, model)
        wrapped.save_pretrained(adapter)
        return cast("nn.Module", wrapped.merge_and_unload(safe_merge=True))
