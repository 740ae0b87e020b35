"""Bottleneck adapters."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from ftlib.config import BatchKind
from ftlib.errors import ModelError, RecipeError
from ftlib.kinds.kind import KINDS
from ftlib.models.checkpoint import BOTTLENECK, Activation, Form
from ftlib.training.tuning.base import TuningBase

if TYPE_CHECKING:
    from torch import nn


class Houlsby(TuningBase):
    """h + U act(D h + b) + b' after attention and after feed-forward (Houlsby et al. 2019, arXiv 1902.00751).

    They, all norms and the head train; the phase ends in them alone, an adapter over the model that it was trained
    over. No merged weights compute the same, so stock transformers loads none, and nothing lies between start and end.
    """

    kind: Literal["houlsby"] = "houlsby"
    width: int = Field(default=64, gt=0)
    """Rows of D and columns of U."""
    activation: Activation = "gelu"
    """Between D and U."""

    layer_decay: ClassVar[float] = 1.0
    makes: ClassVar[str] = BOTTLENECK
    merges: ClassVar[bool] = False
    starts_as_given: ClassVar[bool] = False

    @property
    @override
    def leaves(self) -> Form:
        return "adapter"

    @override
    def prepare(self, model: nn.Module, kind: BatchKind, head: Collection[str]) -> nn.Module:
        """Hang bottlenecks into the model from torch's current seed, or go on with those that are in it.

        Raises RecipeError for a family whose sublayers' ends are not known, or another adapter to go on with.
        """
        from ftlib.models.bottlenecks import bottlenecks_of, insert, own_names

        if hasattr(model, "peft_config"):
            raise RecipeError("tuning: 'houlsby' goes on with bottlenecks, and the model has an adapter of peft's")
        if there := bottlenecks_of(model):
            if (there.width, there.activation) != (self.width, self.activation):
                raise RecipeError(
                    f"tuning: the phase goes on with bottlenecks of width {there.width} and {there.activation!r}, got "
                    f"{self.width} and {self.activation!r}: give it theirs, or start from the base"
                )
        else:
            try:
                whole = () if KINDS[kind].language else head
                insert(model, self.width, self.activation, whole, KINDS[kind].task_type)
            except ModelError as error:
                raise RecipeError(str(error)) from error
        names = own_names(model)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in names)
        return model
