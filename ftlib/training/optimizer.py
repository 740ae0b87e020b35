"""The optimiser over groups of parameters, and how many steps it does."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType

import torch
from torch import nn

from ftlib.models.parameter_names import in_modules, is_embedding, layer_of
from ftlib.training.batches import steps_of_epoch
from ftlib.training.optimizers.base import OptimizerBase, ParameterGroup


def rate_scale(name: str, layers: int, decay: float, head: Collection[str]) -> float:
    """Return the factor of layer-wise decay: 1 for the head, decay for the last layer, decay ** (n + 1) for embeddings.

    `head` are the names of the head's modules. What comes after the layers but is no head (a pooler, a final norm)
    goes with the last layer.
    """
    if decay == 1.0 or in_modules(name, head):
        return 1.0
    layer = layer_of(name)
    if layer is not None:
        return decay ** (layers - layer)
    return decay ** (layers + 1) if is_embedding(name) else decay


def build_optimizer(
    model: nn.Module,
    settings: OptimizerBase,
    decay: float,
    head: Collection[str],
    seed: int,
    factors: Mapping[str, float] = MappingProxyType({}),
) -> torch.optim.Optimizer:
    """Return the phase's optimiser over the trainable parameters; each group remembers its `scale` of the rate.

    A parameter's scale is layer-wise decay's, times its entry in `factors` where it has one.
    Biases, norms and other vectors get no weight decay. Frozen parameters are not in it at all: decay would move them.
    Raises RecipeError if it cannot step these parameters.
    """
    layers = 1 + max(
        (layer for name, _ in model.named_parameters() if (layer := layer_of(name)) is not None), default=-1
    )
    groups: dict[tuple[float, float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            weight_decay = settings.weight_decay if parameter.ndim >= 2 else 0.0
            hidden = settings.steps_hidden_apart and is_hidden_matrix(name, parameter, head)
            scale = rate_scale(name, layers, decay, head) * factors.get(name, 1.0)
            groups.setdefault((scale, weight_decay, hidden), []).append(parameter)
    return settings.build([ParameterGroup(parameters, *key) for key, parameters in sorted(groups.items())], seed)


def is_hidden_matrix(name: str, parameter: nn.Parameter, head: Collection[str]) -> bool:
    """Say whether a parameter is a matrix of the body's layers: no embedding, no head, no vector, no convolution."""
    return parameter.ndim == 2 and not is_embedding(name) and not in_modules(name, head)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set every group's learning rate to `rate` times the group's scale."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]


def total_steps(rows: Sequence[int], settings: OptimizerBase, *, mixed: bool = False) -> int:
    """Return the optimiser steps of a phase whose parts, apart or mixed, have so many rows; at least one."""
    return max(1, round(settings.epochs * steps_of_epoch(rows, settings.batch_size, mixed=mixed)))
