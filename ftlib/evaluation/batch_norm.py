"""BatchNorm's running statistics, measured again for a mix of models: what its own weights compute of training rows.

All rows are one batch, so that the numbers are exact: every layer reads rows that the layers before it normalised by
the mean and variance of all of them. Streamed in smaller batches, the deeper layers' numbers would depend on how the
rows are cut, since each batch would be normalised by its own. That is `torch.optim.swa_utils.update_bn` with
momentum=None over one batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Int
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]

from ftlib.config import Config
from ftlib.data.datasets import PreparedDataset
from ftlib.data.prepared import split_file
from ftlib.errors import DataError, ModelError, RecipeError
from ftlib.evaluation.forward_pass import resources
from ftlib.kinds.collate import Collator
from ftlib.kinds.loading import load
from ftlib.kinds.open_split import open_split
from ftlib.kinds.split import PreparedSplit
from ftlib.merging.batch_norm import RUNNING, moved_layers
from ftlib.merging.candidate_weights import mix_into
from ftlib.merging.candidates import Candidate
from ftlib.models.folder import tensor_spans
from ftlib.models.torch_dtypes import DTYPES
from ftlib.progress import emit
from ftlib.training.compute import Compute
from ftlib.wording import counted
from ftlib.workspace import write_durably


class StatisticsPlan(Config):
    """Whose statistics to measure, on which rows, and where they go. Plain data, so it crosses to a Ray worker."""

    candidates: tuple[Candidate, ...]
    files: tuple[str, ...]
    """Each candidate's statistics; those that are there are not measured again."""
    data: tuple[PreparedDataset, ...]
    """What the last phase trains on."""
    shares: tuple[float, ...]
    """How much of each is seen."""
    rows: int
    seed: int
    compute: Compute


def measure_here(plan: StatisticsPlan) -> None:
    """Measure in this process what is not there.

    Raises ModelError for weights that do not load or whose statistics are not finite, DataError for too few rows,
    RecipeError for more than fit into memory.
    """
    with resources(plan.compute) as device:
        model: nn.Module | None = None
        inputs: Mapping[str, Tensor] = {}
        made_of: object = None
        for i, (candidate, file) in enumerate(zip(plan.candidates, map(Path, plan.files), strict=True)):
            emit("batch_norm", i, len(plan.candidates), "candidates")
            if file.exists():
                continue
            if model is None or made_of != candidate.start.digest():
                model, made_of = load(candidate.start, plan.data[0].kind).to(device), candidate.start.digest()
                inputs = _inputs(plan, model, candidate.end.labels)
            layers = moved_layers([part.weights_folder for part in candidate.parts])
            mix_into(model, candidate, to_measure=layers)
            try:
                statistics = measured(model, layers, inputs)
            except torch.OutOfMemoryError as error:
                raise _too_many(plan.rows) from error
            write_durably(file, save(_as_stored(statistics, candidate)))


def measured(model: nn.Module, layers: Sequence[str], inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the running statistics of some BatchNorm layers over one batch; all else of the model is in eval mode.

    The mean, and the unbiased variance that torch keeps, of every channel of each layer's input, by the names of the
    model's state. Raises ModelError for a layer that the model does not have, or a number that is not finite.
    """
    modules = dict(model.named_modules())
    norms = {layer: modules.get(layer) for layer in layers}
    for layer, norm in norms.items():
        if not isinstance(norm, _BatchNorm):
            raise ModelError(
                f"{layer!r} has running statistics, and is {type(norm).__name__} in the loaded model, not a BatchNorm: "
                "they cannot be measured again; give interpolation: off"
            )
    model.eval()
    before = {layer: cast(Any, norm).momentum for layer, norm in norms.items()}
    try:
        for norm in cast("dict[str, Any]", norms).values():
            norm.reset_running_stats()
            norm.momentum = None  # the average of all batches, and there is one
            norm.train()
        with torch.no_grad():
            model(**inputs)
    finally:
        for layer, norm in cast("dict[str, Any]", norms).items():
            norm.momentum = before[layer]
            norm.eval()
    statistics = {f"{layer}.{name}": getattr(norm, name).clone() for layer, norm in norms.items() for name in RUNNING}
    for name, tensor in statistics.items():
        if not tensor.isfinite().all():
            raise ModelError(f"{name!r} is not finite over {counted(_rows(inputs), 'training row')}: the mix overflows")
    return statistics


def _as_stored(statistics: Mapping[str, Tensor], candidate: Candidate) -> dict[str, Tensor]:
    """Round as the candidate's file will: what is measured is what is served."""
    spans = tensor_spans(candidate.end.weights_folder)
    return {name: tensor.cpu().to(DTYPES[spans[name].dtype]).contiguous() for name, tensor in statistics.items()}


def _inputs(plan: StatisticsPlan, model: nn.Module, labels: tuple[str, ...]) -> dict[str, Tensor]:
    """Return the rows as one batch: of each dataset its share, without augmentation."""
    collate = Collator.of(model)
    splits = [open_split(split_file(data.path, "train"), labels) for data in plan.data]
    batches = [
        split.batch(rows, collate).inputs for split, rows in zip(splits, _drawn(plan, splits), strict=True) if len(rows)
    ]
    if sum(map(_rows, batches)) < 2:
        raise DataError("the train split has fewer than 2 rows, and BatchNorm statistics are measured on at least 2")
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}


def _drawn(plan: StatisticsPlan, splits: Sequence[PreparedSplit]) -> list[Int[np.ndarray, " rows"]]:
    """Return which rows of each dataset: the first of an order that the seed gives, as they lie in the split."""
    return [
        np.sort(np.random.default_rng([plan.seed, part]).permutation(len(split))[: round(plan.rows * share)])
        for part, (split, share) in enumerate(zip(splits, plan.shares, strict=True))
    ]


def _rows(inputs: Mapping[str, Tensor]) -> int:
    return len(next(iter(inputs.values())))


def _too_many(rows: int) -> RecipeError:
    return RecipeError(
        f"interpolation.batch_norm_rows: {rows:,} rows in one batch are more than the memory holds; lower it"
    )
