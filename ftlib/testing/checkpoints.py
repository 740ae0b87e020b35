"""Checkpoints, dense and adapters, past the train stage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, cast

from ftlib.config import BatchKind
from ftlib.kinds.kind import KINDS
from ftlib.models.adapter import adapter_digest, base_of
from ftlib.models.checkpoint import Checkpoint, model_in
from ftlib.models.folder import config_digest, weights_digest
from ftlib.testing.models import tiny_causal_lm, tiny_classifier
from ftlib.testing.rows import LABELS

if TYPE_CHECKING:
    from torch import nn


def tiny_checkpoint(
    folder: Path,
    labels: Sequence[str] = LABELS,
    *,
    phase: str = "base",
    start: Checkpoint | None = None,
    seed: int = 0,
    moved: Callable[[str], bool] = lambda _: True,
) -> Checkpoint:
    """Write a checkpoint, past the train stage; with `start`, one whose weights lie a random step from it.

    That step is taken by the parameters that `moved` says. Without `labels` it is a causal language model. Its
    tokenizer digest is that of `tiny_prepared`.
    """
    from ftlib.kinds.loading import load_model
    from ftlib.kinds.writing import save_model

    kind: BatchKind = "labeled" if labels else "tokens"
    with TemporaryDirectory() as fresh:
        if start is not None:
            origin = start.weights_folder
        else:
            origin = (
                tiny_classifier(Path(fresh), labels, seed=seed) if labels else tiny_causal_lm(Path(fresh), seed=seed)
            )
        model = load_model(origin, kind)
        _step_away(model, seed, moved)  # freshly made weights are so small that every row gets the same answer
        save_model(model, model_in(folder), tuple(labels), origin)
    return Checkpoint(
        uri=str(folder.absolute()),
        weights=weights_digest(model_in(folder)),
        parent=start.weights if start else None,
        tokenizer="tiny",
        config=config_digest(model_in(folder)),
        phase=phase,
        fresh_head=False,
        labels=tuple(labels),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        trained_parameters=0,
    )


def tiny_adapter(folder: Path, start: Checkpoint, *, phase: str = "tune", seed: int = 0, rank: int = 2) -> Checkpoint:
    """Write a checkpoint that is a LoRA adapter over a dense one, with a head of its own: a random step from it."""
    from peft import LoraConfig, get_peft_model

    from ftlib.kinds.loading import head_modules, load
    from ftlib.kinds.writing import save_adapter

    kind = KINDS["labeled" if start.labels else "tokens"]
    model = load(start, kind.name)
    heads = [] if kind.language else head_modules(model)
    config = LoraConfig(task_type=kind.task_type, r=rank, lora_alpha=4 * rank, modules_to_save=heads)
    wrapped = cast("nn.Module", get_peft_model(cast("Any", model), config)).requires_grad_(False)
    _step_away(wrapped, seed, lambda name: "lora_" in name or ".modules_to_save." in name)
    base = base_of(start)
    save_adapter(wrapped, model_in(folder), start.folder, base)
    return start.model_copy(
        update={
            "uri": str(folder.absolute()),
            "weights": adapter_digest(model_in(folder), base),
            "parent": start.weights,
            "config": config_digest(model_in(folder)),
            "phase": phase,
            "form": "adapter",
            "base": base,
        }
    )


def _step_away(model: nn.Module, seed: int, moved: Callable[[str], bool] = lambda _: True) -> None:
    import torch

    random_source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in (parameter for name, parameter in model.named_parameters() if moved(name)):
            parameter += 0.1 * torch.randn(parameter.shape, generator=random_source)
