"""The optimiser over groups of parameters, and how many steps it does."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType

import numpy as np
import torch
from jaxtyping import Int
from torch import nn

from ftlib.models.parameter_names import in_modules, is_embedding, is_factor, layer_of
from ftlib.training.group import own_part
from ftlib.training.loops.batches import epoch_batches
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
            weight_decay = settings.weight_decay if parameter.ndim >= 2 and not is_factor(name) else 0.0
            hidden = settings.steps_hidden_apart and is_hidden_matrix(name, parameter, head)
            scale = rate_scale(name, layers, decay, head) * factors.get(name, 1.0)
            groups.setdefault((scale, weight_decay, hidden), []).append(parameter)
    return settings.build([ParameterGroup(parameters, *key) for key, parameters in sorted(groups.items())], seed)


def is_hidden_matrix(name: str, parameter: nn.Parameter, head: Collection[str]) -> bool:
    """Say whether a parameter is a matrix of the body's layers: no embedding, no head, no vector, no convolution."""
    outside = is_embedding(name) or is_factor(name) or in_modules(name, head)
    return parameter.ndim == 2 and not outside


def too_slow(model: nn.Module, optimizer: torch.optim.Optimizer, settings: OptimizerBase) -> dict[str, float]:
    """Return the highest rate of each vector of which no step changes an element of this rank's part, by name.

    A step below half of what its type tells apart rounds back to where it was, and so does every further one. A norm's
    weights are about 1, where fp32 has steps of 6e-8; a matrix always has some element small enough.
    """
    scales = {id(p): group["scale"] for group in optimizer.param_groups for p in group["params"]}
    slow: dict[str, float] = {}
    for name, parameter in model.named_parameters():
        if id(parameter) not in scales or parameter.ndim >= 2:
            continue
        rate, own = settings.learning_rate * scales[id(parameter)], own_part(parameter).detach()
        if not own.numel() or rate * settings.largest_step < _rounding(own):
            slow[name] = rate
    return slow


def _rounding(tensor: torch.Tensor) -> float:
    """Return the least change that is not rounded away from every element; 0 where an element is."""
    least = torch.linalg.vector_norm(tensor, -torch.inf).cpu()
    return float((least - torch.nextafter(least, torch.zeros_like(least))).double()) / 2


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set every group's learning rate to `rate` times the group's scale."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]


def total_steps(lengths: Sequence[Int[np.ndarray, " _"]], settings: OptimizerBase, seed: int) -> int:
    """Return the optimiser steps of a phase whose parts have rows of these lengths; at least one."""
    passes = epoch_batches(lengths, settings.batch_size, seed, settings.batch_tokens)
    return max(1, round(settings.epochs * sum(passes)))


def held_by(optimizer: torch.optim.Optimizer) -> int:
    """Return the bytes that an optimiser's state takes on this rank: moments, projections, and what else it keeps."""
    kept = (value for state in optimizer.state.values() for value in state.values())
    return sum(own_part(value).nbytes for value in kept if isinstance(value, torch.Tensor))
