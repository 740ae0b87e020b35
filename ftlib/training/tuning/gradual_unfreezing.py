"""The head learns first, then one more group of layers at a time, from the last down to the embeddings."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from ftlib.config import BatchKind
from ftlib.errors import RecipeError
from ftlib.models.parameter_names import in_modules, is_embedding
from ftlib.training.tuning.base import TuningBase
from ftlib.training.tuning.frozen_layers import layer_places

if TYPE_CHECKING:
    from torch import nn


class GradualUnfreezing(TuningBase):
    """Gradual unfreezing with discriminative rates (ULMFiT, Howard & Ruder 2018, arXiv 1801.06146).

    Groups from the last to the first: the head; layers, `layers_per_group` at a time, and with the last of them what
    comes after the layers but is no head (a pooler, a final norm); the embeddings. A head that is tied to the
    embeddings waits with them. The first group learns from step 1 on, and each `epochs_per_group` one more joins in.
    What waits is as `frozen_layers` leaves it: out of the optimiser's reach, bit for bit, with its dropout off and its
    BatchNorm's statistics still. What learns already keeps its optimiser state as others join (fastai clears it), and
    the schedule goes on.
    """

    kind: Literal["gradual_unfreezing"] = "gradual_unfreezing"
    epochs_per_group: float = Field(default=1.0, gt=0.0)
    """Passes over the training rows from one group to the next; a part of one is allowed."""
    layers_per_group: int = Field(default=1, gt=0)
    """How many layers begin to learn together. A layer of a network of stages is a stage, of EfficientNet a block; of
    ALBERT, layers that share their weights are one."""
    rate_divisor: float = Field(default=2.6, ge=1.0)
    """What the learning rate is divided by from each group to the one below it; 1: all learn alike."""

    layer_decay: ClassVar[float] = 1.0
    unfreezes: ClassVar[bool] = True
    moves_rows: ClassVar[bool] = True
    speeds_up: ClassVar[str] = "lower tuning.rate_divisor, or raise tuning.layers_per_group"

    @override
    def prepare(self, model: nn.Module, kind: BatchKind, head: Collection[str]) -> nn.Module:
        """Make every parameter trainable: all that will learn in the end.

        Raises RecipeError for a model whose parameters do not say which layer they are in.
        """
        if not any(layers is not None for layers in layer_places(model).values()):
            raise RecipeError(
                f"tuning: no parameter of {type(model).__name__} says which layer it is in, so there is no order to "
                "unfreeze it by; use full"
            )
        return model.requires_grad_(True)

    @override
    def rate_factors(self, model: nn.Module, head: Collection[str]) -> Mapping[str, float]:
        groups = self._groups(model, head)
        return {name: self.rate_divisor**-i for i, names in enumerate(groups) for name in names}

    @override
    def thaws(self, model: nn.Module, head: Collection[str], steps_per_epoch: int) -> Mapping[str, int]:
        groups = self._groups(model, head)
        return {
            name: max(i, round(i * self.epochs_per_group * steps_per_epoch))
            for i, names in enumerate(groups)
            for name in names
        }

    def _groups(self, model: nn.Module, head: Collection[str]) -> list[list[str]]:
        """Return the names of trainable parameters, in groups from the head down; none of them is empty."""
        places = layer_places(model)
        borders = sorted({layers.stop for layers in places.values() if layers is not None}, reverse=True)
        below = len(borders) + 1
        depths: dict[int, list[str]] = {}
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            layers = places[name]
            if layers is not None:
                depth = 1 + borders.index(layers.stop) // self.layers_per_group
            elif is_embedding(name):  # T5 has its own outside of its two stacks, where heads are
                depth = below
            else:
                depth = 0 if in_modules(name, head) else 1
            depths.setdefault(depth, []).append(name)
        return [names for _, names in sorted(depths.items())]
