"""The first layers stay as they are."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from pydantic import Field
from typing_extensions import override

from ftlib.config import BatchKind, NamePattern
from ftlib.errors import RecipeError
from ftlib.models.parameter_names import is_embedding, layer_of
from ftlib.training.tuning.base import TuningBase
from ftlib.wording import some

if TYPE_CHECKING:
    from torch import nn


class FrozenLayers(TuningBase):
    """Embeddings and the first `layers` layers are frozen, bit for bit; `also` names more by regex."""

    kind: Literal["frozen_layers"] = "frozen_layers"
    layers: int = Field(ge=0)
    """How many layers are frozen, counted from the input; 0 freezes the embeddings alone. A layer of a network of
    stages (ResNet, ConvNeXt) is a stage, of EfficientNet a block."""
    also: tuple[NamePattern, ...] = ()
    """Regular expressions, searched for in parameter names."""
    layer_decay: float = Field(default=1.0, gt=0.0, le=1.0)
    """What the learning rate is multiplied with from each layer to the one below it; 1: all learn alike."""

    several_heads: ClassVar[bool] = True
    speeds_up: ClassVar[str] = "raise tuning.layer_decay"

    @override
    def prepare(self, model: nn.Module, kind: BatchKind, head: Collection[str]) -> nn.Module:
        """Freeze the named parameters.

        Raises RecipeError if a pattern matches nothing, if nothing is left to train, or if the last layer to freeze
        shares its weights with one that is to be trained.
        """
        names = [name for name, _ in model.named_parameters()]
        places = layer_places(model)
        _check_depth(self.layers, places, model)
        for pattern in self.also:
            if not any(re.search(pattern, name) for name in names):
                raise RecipeError(f"tuning.also: {pattern!r} matches no parameter; there are {some(names, 3)}")
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(not self._freezes(name, places[name]))
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise RecipeError("tuning: every parameter is frozen; nothing is left to train")
        return model

    def _freezes(self, name: str, layers: range | None) -> bool:
        low = is_embedding(name) if layers is None else layers.stop <= self.layers
        return low or any(re.search(pattern, name) for pattern in self.also)


def layer_places(model: nn.Module) -> dict[str, range | None]:
    """Return the layers that each parameter computes, counted from the input; None for one outside the layers.

    Almost everywhere it is one. ALBERT has groups of layers with the same weights.
    """
    config = cast(Any, model).config
    groups, layers = getattr(config, "num_hidden_groups", None), getattr(config, "num_hidden_layers", 0)
    places: dict[str, range | None] = {}
    for name, _ in model.named_parameters():
        group = re.search(r"\.albert_layer_groups\.(\d+)\.", f".{name}")
        layer = layer_of(name)
        if group and groups:  # layer i is computed by group int(i / (layers / groups))
            mine = [i for i in range(layers) if int(i / (layers / groups)) == int(group[1])]
            places[name] = range(mine[0], mine[-1] + 1) if mine else None
        else:
            places[name] = None if layer is None else range(layer, layer + 1)
    return places


def _check_depth(wanted: int, places: Mapping[str, range | None], model: nn.Module) -> None:
    """Raise RecipeError for more layers than the model has, and for a border within a block of them."""
    blocks = {layers for layers in places.values() if layers is not None}
    depth = max((layers.stop for layers in blocks), default=0)
    if not blocks and wanted:
        raise RecipeError(
            f"tuning.layers: no parameter of {type(model).__name__} says which layer it is in, got {wanted}; name what "
            "is to be frozen by `also`, with layers: 0"
        )
    if wanted > depth:
        raise RecipeError(f"tuning.layers: the model has {depth} layers, got {wanted}; give fewer")
    for layers in blocks:
        if layers.start < wanted < layers.stop:
            borders = sorted({0, *(each.stop for each in blocks)})
            raise RecipeError(
                f"tuning.layers: layers {layers.start + 1} to {layers.stop} of the model are one set of weights, which "
                f"is frozen as a whole or not at all, got {wanted}; allowed are {', '.join(map(str, borders))}"
            )
