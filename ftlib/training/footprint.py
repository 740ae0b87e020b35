"""What a phase will move and hold, counted on a model without memory: torch's meta device."""

from __future__ import annotations

from pathlib import Path

import torch

from ftlib.config import BatchKind, Config
from ftlib.kinds.kind import KINDS
from ftlib.kinds.loading import empty_model, head_modules
from ftlib.models.limits import load_config
from ftlib.models.parameter_names import is_embedding
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
    config = load_config(folder)
    head = KINDS[kind].head()
    config.update(head.config([str(i) for i in range(labels)]))
    with torch.device("meta"):
        model = empty_model(head.auto_class, config, folder)
        parameters = sum(p.numel() for p in model.parameters())
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
