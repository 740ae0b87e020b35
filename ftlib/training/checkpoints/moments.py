"""An optimiser's state by the names of parameters, and what of it is no tensor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

from ftlib.training.group import shard_again, unwrap


def moments_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return the optimiser's state by the parameters' names; of one that has not stepped yet, zeros."""
    shard_again(unwrap(model))
    return cast("dict[str, Any]", get_optimizer_state_dict(unwrap(model), optimizer))


def entries_of(moments: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Yield everything in an optimiser's state: its name here, and the dictionary and key that hold it."""
    for parameter, state in moments["state"].items():
        yield from ((f"optimizer/{parameter}/{key}", state, key) for key in state)
    for i, group in enumerate(moments["param_groups"]):
        yield from ((f"group/{i}/{key}", group, key) for key in group)


def numbers_of(moments: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an optimiser remembers that is no tensor."""
    return {name: of[key] for name, of, key in entries_of(moments) if isinstance(of[key], bool | int | float)}


def take_numbers(moments: Mapping[str, Any], numbers: Mapping[str, Any]) -> None:
    """Give an optimiser's state what `numbers_of` returned of it."""
    for name, of, key in entries_of(moments):
        if name in numbers:
            of[key] = numbers[name]
