"""What a phase will move and hold, counted on a model without memory: torch's meta device."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from ftlib.config import BatchKind, Config
from ftlib.kinds.kind import KINDS
from ftlib.kinds.loading import empty_model, head_modules
from ftlib.models.checkpoint import FoundModel
from ftlib.models.limits import load_config
from ftlib.models.parameter_names import is_embedding
from ftlib.training.phase import Phase
from ftlib.training.tuning import Tuning


class Footprint(Config):
    """Sizes of one phase's model."""

    parameters: int
    trained: int
    computing: int
    """Parameters that every token is multiplied with: all but the embedding tables."""
    hidden: int
    layers: int


def footprint(folder: Path, kind: BatchKind, labels: int, tuning: Tuning) -> Footprint:
    """Count a phase's parameters from the model's config; no weights are read.

    Raises ModelError for a config that makes no model.
    """
    model = _without_weights(folder, kind, labels)
    config = cast(Any, model).config
    parameters = sum(p.numel() for p in model.parameters())
    with torch.device("meta"):
        tables = sum(p.numel() for name, p in model.named_parameters() if is_embedding(name) and p.dim() > 1)
        tuned = tuning.prepare(model, kind, head_modules(model))
    trained = sum(p.numel() for p in tuned.parameters() if p.requires_grad) + tuning.solved(config.hidden_size, labels)
    return Footprint(
        parameters=parameters,
        trained=trained,
        computing=parameters - tables,
        hidden=config.hidden_size,
        layers=config.num_hidden_layers,
    )


def parameters_beside(phase: Phase, kind: BatchKind, own: int, found: Mapping[str, FoundModel], labels: int) -> int:
    """Count the parameters of a phase's companions, which answer batches of its `kind`.

    An earlier phase's end has as many as the model's `own`.
    """
    return sum(
        sum(p.numel() for p in _without_weights(Path(found[name].uri), kind, labels).parameters())
        if name in found
        else own
        for name in phase.companions
    )


def _without_weights(folder: Path, kind: BatchKind, labels: int) -> nn.Module:
    config, head = load_config(folder), KINDS[kind].head()
    config.update(head.config([str(i) for i in range(labels)]))
    with torch.device("meta"):
        return empty_model(head.auto_class, config, folder)
