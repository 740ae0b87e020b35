"""Parameters that a phase leaves as they are, whatever its tuning moves."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, cast

from torch import nn

from ftlib.errors import RecipeError
from ftlib.kinds.loading import is_adapted
from ftlib.kinds.soft_prompts import method_of
from ftlib.models.adapter import prefix_of
from ftlib.models.saved_names import never_saved
from ftlib.wording import some


def freeze(model: nn.Module, patterns: Sequence[str], where: str) -> None:
    """Freeze the parameters whose names match a pattern, and what an adapter would learn of them.

    Tables that transformers computes and never saves are frozen in any case: what they learnt would be lost; so are the
    parts of a model that only read, as a pipeline's text encoder. `where` is the phase, for messages.

    Raises RecipeError if a pattern matches none, or if nothing is left to train of a model that was to train.
    """
    named = [(_own_name(name, model), p) for name, p in model.named_parameters()]
    trained = any(p.requires_grad for _, p in named)
    for pattern in patterns:
        if not any(re.search(pattern, name) for name, _ in named):
            raise RecipeError(
                f"{where}.frozen: {pattern!r} matches no parameter; there are {some([name for name, _ in named], 3)}"
            )
    plain: Any = cast(Any, model).get_base_model() if is_adapted(model) else model
    computed, parts = never_saved(plain), never_trained(plain)
    for name, parameter in named:
        if name in computed or name.startswith(parts) or any(re.search(pattern, name) for pattern in patterns):
            parameter.requires_grad_(False)
    if trained and not any(p.requires_grad for _, p in named):
        raise RecipeError(f"{where}.frozen: every parameter is frozen; nothing is left to train")


def never_trained(plain: nn.Module) -> tuple[str, ...]:
    """Return how the names of parameters begin that no tuning moves, in a model that has such parts."""
    return tuple(f"{part}." for part in getattr(plain, "never_trains", ()))


def _own_name(name: str, model: nn.Module) -> str:
    """Return what a parameter is called without an adapter over its model; what one adds is called as its weight."""
    if not is_adapted(model):
        return name
    for prefix in _adapted_layers(model):
        if name.startswith(f"{prefix}.") and ".base_layer." not in name:
            name = f"{prefix}.weight"
            break
    plain = name.removeprefix(prefix_of(method_of(model))).replace(".base_layer.", ".")
    return plain.replace(".modules_to_save.default.", ".").replace(".original_module.", ".")


def _adapted_layers(model: nn.Module) -> Iterator[str]:
    from peft.tuners.tuners_utils import BaseTunerLayer

    return (name for name, module in cast(Any, model).named_modules() if isinstance(module, BaseTunerLayer))
