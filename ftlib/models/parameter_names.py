"""What a parameter's name says about its place: the layer it is in, and whether it belongs to the head."""

from __future__ import annotations

import re
from collections.abc import Iterable

BATCHES_SEEN = ".num_batches_tracked"
"""How the name of a BatchNorm layer's counter ends; who has none keeps no running statistics while it trains."""

_LAYER = re.compile(r"\.(?:layer|layers|h|block|blocks|stages)\.(\d+)\.")


def layer_of(name: str) -> int | None:
    """Return the layer a parameter belongs to, counted from the input; None outside the layers.

    Of a network of stages (ResNet, ConvNeXt) it is the stage, whose own layers are numbered from 0 again; of
    EfficientNet, the block.
    """
    parts = split_at_layer(name)
    return parts[1] if parts else None


def layers_in(names: Iterable[str]) -> int:
    """Return how many layers the model of these parameters has; 0 where none is numbered."""
    return 1 + max((layer for name in names if (layer := layer_of(name)) is not None), default=-1)


def split_at_layer(name: str) -> tuple[str, int, str] | None:
    """Return what comes before a layer's number in a parameter's name, the number, and what comes behind it."""
    match = _LAYER.search(f".{name}")
    return (f".{name}"[1 : match.start(1) - 1], int(match[1]), f".{name}"[match.end() :]) if match else None


def is_embedding(name: str) -> bool:
    """Say whether a parameter outside the layers comes before them; GPT-NeoX calls its head `embed_out`."""
    outside = layer_of(name) is None and "embed_out" not in name
    return outside and any(mark in name for mark in ("embed", "wte", "wpe", "shared"))


def is_factor(name: str) -> bool:
    """Say whether a parameter holds (IA)3's factors: a vector, whatever its shape, that begins at 1 and not at 0."""
    return ".ia3_l" in name


def in_modules(name: str, modules: Iterable[str]) -> bool:
    """Say whether a parameter lies in one of these modules; wrappers (peft, DDP) may have put names before them."""
    return any(f".{module}." in f".{name}." for module in modules)
