"""AdamW over parameter groups, and the learning rate as a pure function of the step."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import torch
from torch import nn

from ftlib.models.parameter_names import in_modules, is_embedding, layer_of
from ftlib.training.batches import batches_in
from ftlib.training.phase import Optimizer


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


def build_optimizer(model: nn.Module, settings: Optimizer, decay: float, head: Collection[str]) -> torch.optim.AdamW:
    """Return fused AdamW over the trainable parameters; each group remembers its `scale` of the learning rate.

    Biases, norms and other vectors get no weight decay. Frozen parameters are not in it at all: decay would move them.
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    layers = 1 + max(
        (layer for name, _ in model.named_parameters() if (layer := layer_of(name)) is not None), default=-1
    )
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in named:
        weight_decay = settings.weight_decay if parameter.ndim >= 2 else 0.0
        groups.setdefault((rate_scale(name, layers, decay, head), weight_decay), []).append(parameter)
    rated = [{"params": params, "scale": scale, "weight_decay": wd} for (scale, wd), params in sorted(groups.items())]
    return torch.optim.AdamW(
        rated,
        lr=settings.learning_rate,
        betas=(settings.beta1, settings.beta2),
        eps=settings.epsilon,
        fused=True,
    )


def schedule_factor(settings: Optimizer, step: int, total: int, plateau: float) -> float:
    """Return the learning rate of `step` (from 0) of `total` as a share of the peak.

    Warm-up is linear and its first step is not 0. linear and cosine end at 0 after the last step. `plateau` is the
    factor the plateau schedule has come to; 1 for the others.
    """
    warmup = math.ceil(settings.warmup * total)
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    if settings.schedule == "linear":
        return 1.0 - progress
    if settings.schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * progress))
    return plateau


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set every group's learning rate to `rate` times the group's scale."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]


def total_steps(rows: Sequence[int], settings: Optimizer) -> int:
    """Return the optimiser steps of a phase whose parts have so many rows; at least one."""
    return max(1, round(settings.epochs * sum(batches_in(part, settings.batch_size) for part in rows)))
