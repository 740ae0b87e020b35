"""Removing layers: which ones by what a model's blocks do to hidden states, and the folder without them. No torch.

A folder that is written here is one of stock transformers: its config counts fewer layers, and what is left is numbered
anew.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import Field, model_validator

from ftlib.config import Config, Name
from ftlib.errors import ModelError, RecipeError
from ftlib.models.folder import GENERATION_CONFIG, copy_processor, read_config, tensor_files, tensor_spans
from ftlib.models.parameter_names import split_at_layer
from ftlib.models.shards import write_copies
from ftlib.models.tensor_files import INDEX, TensorSpan, index_of, lay_out, shard_names
from ftlib.wording import counted, some

PRUNING = "pruning.json"
"""The file beside a pruned model that holds its `Pruning`."""


class Prune(Config):
    """Depth pruning: the layers that change hidden states the least are removed before the first phase.

    Measured on training rows without their labels; phases, or a teacher, heal what is left.

        choose   removed are                                    after
        lowest   those of the lowest influence, one by one      ShortGPT, Men et al. 2024, arXiv 2403.03853
        block    as many in a row, between whose first input    Gromov et al. 2024, arXiv 2403.17887
                 and last output the angle is smallest
    """

    dataset: Name
    """One that a phase trains on: its training rows are read."""
    layers: int | None = Field(default=None, gt=0)
    """How many are removed; or else `share` says it."""
    share: float | None = Field(default=None, gt=0.0, lt=1.0)
    """Of all layers, rounded down, and at least one."""
    choose: Literal["lowest", "block"] = "lowest"
    """Which are removed: those of the lowest influence wherever they are, or neighbours."""
    keep_first: int = Field(default=0, ge=0)
    """So many layers from the input on are never removed."""
    keep_last: int = Field(default=0, ge=0)
    """So many layers before the head are never removed."""
    rows: int = Field(default=256, gt=0)
    """Training rows that are read, drawn by the recipe's seed."""

    @model_validator(mode="after")
    def _says_how_many(self) -> Prune:
        if (self.layers is None) == (self.share is None):
            raise ValueError(f"give `layers` or `share`, got {'neither' if self.layers is None else 'both'}")
        return self

    def number(self, depth: int) -> int:
        """Return how many of so many layers are removed. Raises RecipeError where that many may not be."""
        wanted = self.layers if self.layers is not None else max(1, int(depth * (self.share or 0.0) + 1e-9))
        free = depth - self.keep_first - self.keep_last
        if wanted > free or wanted >= depth:
            kept = f", of which the first {self.keep_first} and the last {self.keep_last} are kept"
            raise RecipeError(
                f"prune: the model has {counted(depth, 'layer')}{kept if self.keep_first or self.keep_last else ''}, "
                f"got {wanted} to remove; allowed are 1 to {max(0, min(free, depth - 1))}"
            )
        return wanted

    def chosen(self, influences: Sequence[float], distances: Sequence[float]) -> tuple[int, ...]:
        """Return the layers to remove, counted from 0 at the input; of equals the first.

        `distances` are those of the neighbours that begin at each layer, for as many as are to be removed.
        """
        depth = len(influences)
        number = self.number(depth)
        if self.choose == "lowest":
            free = range(self.keep_first, depth - self.keep_last)
            return tuple(sorted(sorted(free, key=lambda layer: influences[layer])[:number]))
        first = min(range(self.keep_first, depth - self.keep_last - number + 1), key=lambda layer: distances[layer])
        return tuple(range(first, first + number))


class Pruning(Config):
    """What was measured of a model's layers, and what became of them."""

    removed: tuple[int, ...]
    """Counted from 0 at the input."""
    influences: tuple[float, ...]
    """Of each layer 1 - the mean over tokens of the cosine between its input and its output."""
    distances: tuple[float, ...]
    """Of as many neighbours as were removed, from each layer on: the mean over tokens of the angle between the first
    one's input and the last one's output, as a share of 180 degrees."""
    rows: int
    tokens: int
    """Over which the means are."""
    parameters: tuple[int, int]
    """Before and after."""
    bytes: tuple[int, int]
    """Of the weights' files."""
    rows_per_second: tuple[float, float]
    """Of forward passes over these rows, on the machine that measured."""

    @property
    def layers(self) -> tuple[int, int]:
        """Return how many there were, and are."""
        return len(self.influences), len(self.influences) - len(self.removed)


@dataclass(frozen=True)
class Stack:
    """The layers of a model, one like the other."""

    prefix: str
    """What comes before a layer's number in the names of its tensors."""
    depth: int


def stack_of(folder: Path) -> Stack:
    """Return a dense model's one stack of layers. Raises ModelError where there is none, several, or a shared one."""
    config, layers = read_config(folder), dict[str, set[int]]()
    if config.get("num_hidden_groups"):
        raise ModelError(f"prune: the layers of {folder} share their weights, so none goes alone; choose another model")
    for name in tensor_spans(folder):
        if parts := split_at_layer(name):
            layers.setdefault(parts[0], set()).add(parts[1])
    if len(layers) != 1:
        stacks = f"{len(layers)} stacks of layers ({some(sorted(layers), 3)})" if layers else "no numbered layers"
        raise ModelError(f"prune: {folder} has {stacks}, and layers are removed from one; choose another model")
    ((prefix, numbers),) = layers.items()
    depth = len(numbers)
    if numbers != {*range(depth)} or not _counts(config, depth):
        raise ModelError(
            f"prune: the config of {folder} does not count the {depth} layers that are under {prefix!r}; layers of "
            "such a network (stages, blocks of several kinds) cannot be removed"
        )
    return Stack(prefix, depth)


_COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")


def _counts(config: Mapping[str, Any], depth: int) -> list[str]:
    return [key for key in _COUNTS if config.get(key) == depth]


def pruned_config(config: Mapping[str, Any], depth: int, removed: Collection[int]) -> dict[str, Any]:
    """Return a config with fewer layers: their count, and lists with an entry for each layer (`layer_types`)."""
    left = [layer for layer in range(depth) if layer not in removed]
    changed = dict(config)
    for key, value in config.items():
        if key in _counts(config, depth):
            changed[key] = len(left)
        elif isinstance(value, list) and "layer" in key and len(cast("list[object]", value)) == depth:
            changed[key] = [value[layer] for layer in left]
    return changed


def write_pruned(source: Path, target: Path, removed: Collection[int]) -> None:
    """Write the folder of a dense model without some layers; streams, in as many files as the source has at most.

    Raises ModelError where a layer has other tensors than the one whose place it takes.
    """
    stack, spans = stack_of(source), tensor_spans(source)
    left = [layer for layer in range(stack.depth) if layer not in removed]
    places = {layer: number for number, layer in enumerate(left)}
    _check_alike(source, spans, stack, places)
    describe_pruned(source, target, removed)
    if (source / GENERATION_CONFIG).is_file():
        (target / GENERATION_CONFIG).write_bytes((source / GENERATION_CONFIG).read_bytes())
    kept: list[dict[str, TensorSpan]] = []
    for file in tensor_files(source):
        if named := {new: span for span in file.spans if (new := _renumbered(span.name, places)) is not None}:
            kept.append(named)
    files = [
        lay_out(target / name, [replace(span, name=new) for new, span in named.items()])
        for name, named in zip(shard_names(len(kept)), kept, strict=True)
    ]
    for file, named in zip(files, kept, strict=True):
        write_copies(file, file.path, named)
    if len(files) > 1:
        (target / INDEX).write_text(index_of(files) + "\n", encoding="utf-8")


def describe_pruned(source: Path, target: Path, removed: Collection[int]) -> None:
    """Write what a folder without some layers has beside weights: its config, and what makes inputs."""
    target.mkdir(parents=True, exist_ok=True)
    config = pruned_config(read_config(source), stack_of(source).depth, removed)
    (target / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")
    copy_processor(source, target)


def _renumbered(name: str, places: Mapping[int, int]) -> str | None:
    """Return what a tensor is called where layers have these places; None for one of a layer without a place."""
    parts = split_at_layer(name)
    if parts is None:
        return name
    prefix, layer, rest = parts
    return f"{prefix}.{places[layer]}.{rest}" if layer in places else None


def _check_alike(folder: Path, spans: Mapping[str, TensorSpan], stack: Stack, places: Mapping[int, int]) -> None:
    """Raise ModelError where a layer that moves has other tensors than the one whose place it takes."""
    shapes: dict[int, dict[str, tuple[int, ...]]] = {layer: {} for layer in range(stack.depth)}
    for span in spans.values():
        if parts := split_at_layer(span.name):
            shapes[parts[1]][parts[2]] = span.shape
    for layer, new in places.items():
        if shapes[layer] != shapes[new]:
            differing = sorted(
                name for name in {*shapes[layer], *shapes[new]} if shapes[layer].get(name) != shapes[new].get(name)
            )
            raise ModelError(
                f"prune: layer {layer} of {folder} would be number {new}, which has other tensors "
                f"({some(differing, 3)}); keep what comes before by keep_first, or choose another model"
            )
