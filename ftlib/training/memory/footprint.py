"""What a phase will move and hold, counted on a model without memory: torch's meta device."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import torch
from torch import nn

from ftlib.config import BatchKind, Config
from ftlib.data.images.processing import pixels_of
from ftlib.errors import ModelError, first_line
from ftlib.kinds.kind import KINDS
from ftlib.kinds.loading import empty_model, head_modules, load_processor
from ftlib.kinds.task_model import TaskModel
from ftlib.models.adapter import WEIGHTS
from ftlib.models.checkpoint import FoundModel
from ftlib.models.folder import is_adapter
from ftlib.models.four_bits import hold_in_four_bits
from ftlib.models.limits import load_config
from ftlib.models.parameter_names import is_embedding
from ftlib.models.quiet import quiet
from ftlib.models.tensor_files import read_header
from ftlib.training.loops.frozen import freeze
from ftlib.training.phase import Phase
from ftlib.training.tuning import Tuning


class Footprint(Config):
    """Sizes of one phase's model."""

    parameters: int
    trained: int
    computing: int
    """Parameters that every token is multiplied with: all but the embedding tables. Of an image, whose convolutions
    use a weight at many places, its multiplications for each patch of 16 x 16 pixels."""
    hidden: int
    """The width that the head reads."""


Heads = Mapping[str, tuple[BatchKind, int]]
"""Of several tasks, each one's kind and how many labels it has; empty where there is one head."""
ONE_HEAD: Heads = MappingProxyType({})


def shapes_of(folder: Path, kind: BatchKind, labels: int, phase: Phase, tasks: Heads = ONE_HEAD) -> nn.Module:
    """Return a phase's model as it is held while it trains, on torch's meta device; no weights are read.

    Raises ModelError for a config that makes no model, RecipeError for something to be frozen that it does not have.
    """
    model = without_weights(folder, kind, labels, tasks)
    with torch.device("meta"):
        tuned = phase.tuning.prepare(model, kind, head := head_modules(model))
    freeze(tuned, phase.frozen, f"phases[{phase.name}]")
    if phase.tuning.quantization:
        hold_in_four_bits(tuned, head, phase.tuning.quantization, file=None)
    return tuned


def footprint(folder: Path, kind: BatchKind, labels: int, tuning: Tuning, tasks: Heads = ONE_HEAD) -> Footprint:
    """Count a phase's parameters from the model's config; no weights are read.

    Raises ModelError for a config that makes no model.
    """
    model = without_weights(folder, kind, labels, tasks)
    config, images = cast(Any, model).config, KINDS[kind].modality == "images"
    hidden = _width_of_head(model) if images else config.hidden_size
    products = _products_of_a_patch(model, folder) if images else None
    parameters = sum(p.numel() for p in model.parameters())
    with torch.device("meta"):
        tables = _tables(model)
        tuned = tuning.prepare(model, kind, head_modules(model))
    trained = sum(p.numel() for p in tuned.parameters() if p.requires_grad) + tuning.solved(hidden, labels)
    return Footprint(
        parameters=parameters,
        trained=trained,
        computing=parameters - tables if products is None else products,
        hidden=hidden,
    )


def _width_of_head(model: nn.Module) -> int:
    heads = [model.get_submodule(name) for name in head_modules(model)]
    linear = [module for head in heads for module in head.modules() if isinstance(module, nn.Linear)]
    return linear[-1].in_features if linear else 0


def _products_of_a_patch(model: nn.Module, folder: Path) -> int:
    """Count what convolutions and linear layers multiply for a patch of an image, by a pass without memory."""
    column = pixels_of(load_processor(folder).image_processor)
    products = [0]

    def count(layer: nn.Module, _: object, out: object) -> None:
        if isinstance(out, torch.Tensor) and isinstance(layer, nn.Conv2d | nn.Linear):
            channels = layer.out_channels if isinstance(layer, nn.Conv2d) else layer.out_features
            products[0] += out.numel() // channels * layer.weight.numel()

    hooks = [m.register_forward_hook(count) for m in model.modules() if not any(True for _ in m.children())]
    try:
        with torch.no_grad(), quiet():
            model.eval()(pixel_values=torch.empty(1, 3, column.height, column.width, device="meta"))
    except (ValueError, RuntimeError, TypeError, NotImplementedError) as error:
        raise ModelError(f"{folder} cannot read the images of its own processor: {first_line(error)}") from error
    finally:
        for hook in hooks:
            hook.remove()
    return products[0] // column.counts


class Frozen(Config):
    """Sizes of a model that is asked and never trained."""

    parameters: int
    computing: int
    """As of a `Footprint`; an adapter's own beside its base's."""


def frozen_beside(
    phases: Sequence[Phase],
    sizes: Sequence[Footprint],
    kind: BatchKind,
    model: Path,
    found: Mapping[str, Mapping[str, FoundModel]],
    labels: int,
) -> list[dict[str, Frozen]]:
    """Count, for each phase, the frozen models that have a part in it, by name.

    `kind` is of batches that all of them answer, `model` the base model's folder, `found` the companions from elsewhere
    by phase and name; of a policy's phase they are reward models. The others are where an earlier phase ended, which is
    as large as the phase's own model and, where it is an adapter, the adapter.
    """
    end = _frozen(model, kind, labels) if any(phase.beside for phase in phases) else None
    ends, beside = {"base": end, "prune": end}, list[dict[str, Frozen]]()  # without some layers it is smaller
    for phase, size in zip(phases, sizes, strict=True):
        elsewhere = found.get(phase.name, {})
        counted: dict[str, Frozen] = {}
        for name, companion in phase.beside.items():
            answered = getattr(phase.objective, "companions_answer", None) if name in phase.companions else None
            of: tuple[BatchKind, int] = (answered, 0) if answered else (kind, labels)
            one = ends[companion.phase] if companion.phase else _frozen(elsewhere[name].folder, *of)
            assert one is not None
            counted[name] = one
        beside.append(counted)
        if phase.tuning.leaves:
            over = size.trained if phase.tuning.leaves == "adapter" else 0
            end = Frozen(parameters=size.parameters + over, computing=size.computing + over)
        ends[phase.name] = end
    return beside


def _frozen(folder: Path, kind: BatchKind, labels: int) -> Frozen:
    model = without_weights(folder, kind, labels)
    over = sum(math.prod(span.shape) for span in read_header(folder / WEIGHTS).spans) if is_adapter(folder) else 0
    parameters = sum(p.numel() for p in model.parameters())
    return Frozen(parameters=parameters + over, computing=parameters - _tables(model) + over)


def _tables(model: nn.Module) -> int:
    """Count the parameters of embedding tables, which no token is multiplied with."""
    return sum(p.numel() for name, p in model.named_parameters() if is_embedding(name) and p.dim() > 1)


def without_weights(folder: Path, kind: BatchKind, labels: int, tasks: Heads = ONE_HEAD) -> nn.Module:
    """Return the model that a folder describes, with a head for so many labels or each task, on torch's meta device.

    Raises ModelError for a config that makes no model.
    """
    if tasks:
        return TaskModel({task: without_weights(folder, *wanted) for task, wanted in tasks.items()})
    config, head = load_config(folder), KINDS[kind].head()
    config.update(head.config([str(i) for i in range(labels)]))
    with torch.device("meta"):
        return empty_model(head.auto_class, config, folder)
