"""What a frozen model says of rows, computed once: what tunings solve on that take no steps."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ftlib.errors import ModelError
from ftlib.kinds.collate import Collator
from ftlib.kinds.split import PreparedSplit
from ftlib.progress import emit
from ftlib.training.loops.batches import by_length

BATCH = 64

Reader = Callable[[Mapping[str, Tensor]], tuple[Tensor, ...]]
"""From a batch's inputs to arrays with one entry for each of its rows."""


def last_linear(model: nn.Module, head: Sequence[str], labels: int, tuning: str) -> nn.Linear:
    """Return the layer that makes the logits. Raises ModelError if the head ends in none."""
    linears = [
        module
        for name in head
        for module in model.get_submodule(name).modules()
        if isinstance(module, nn.Linear) and module.out_features == labels
    ]
    if not linears:
        raise ModelError(
            f"{tuning}: the head ({', '.join(head)}) has no linear layer with {labels} outputs; tune it with full"
        )
    return linears[-1]


def head_features(
    model: nn.Module, layer: nn.Linear, split: PreparedSplit, phase: str
) -> Float[np.ndarray, "rows width"]:
    """Return what enters the head's last layer for every row, in order, with dropout off."""
    with handing_on(layer):
        (features,) = over_rows(model, split, phase, lambda inputs: (answers(model, inputs),))
    return features


def head_gaps(model: nn.Module, layer: nn.Linear, split: PreparedSplit, phase: str) -> Float[np.ndarray, "rows width"]:
    """Return what enters the head's last layer for the better text of every row, less what does for the other."""

    def gaps(inputs: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        chosen, rejected = answers(model, inputs).unflatten(0, (-1, 2)).unbind(1)
        return (chosen - rejected,)

    with handing_on(layer):
        (features,) = over_rows(model, split, phase, gaps)
    return features


@contextmanager
def handing_on(layer: nn.Linear) -> Generator[None]:
    """Have a model's last layer hand on what enters it: its answer is then what it reads of a row, wherever it is."""
    hook = layer.register_forward_hook(lambda _, inputs, __: inputs[0])
    try:
        yield
    finally:
        hook.remove()


def answers(model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
    """Return a classifier's logits, or what its last layer hands on instead."""
    output: Any = model(**inputs)
    return output.logits


@torch.inference_mode()
def over_rows(
    model: nn.Module, split: PreparedSplit, phase: str, read: Reader, rows: Int[np.ndarray, " rows"] | None = None
) -> list[np.ndarray]:
    """Return what `read` says of these rows, of all by default, in their order; `model` says how they are collated."""
    collate = Collator.of(model)
    asked = np.arange(len(split)) if rows is None else rows
    arrays: list[np.ndarray] = []
    done = 0
    for places in by_length(split.sizes[asked], BATCH):
        answers = read(split.batch(asked[places], collate).inputs)
        arrays = arrays or [np.empty((len(asked), *one.shape[1:]), np.float32) for one in answers]
        for array, one in zip(arrays, answers, strict=True):
            array[places] = one.float().cpu().numpy()
        done += len(places)
        emit(f"train {phase}", done, len(asked), "rows")
    return arrays
