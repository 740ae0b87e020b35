"""Models in memory written as folders that stock transformers, or peft, loads."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from ftlib.models.adapter import read_adapter, write_adapter_config, write_base
from ftlib.models.bottlenecks import bottlenecks_of, write_bottlenecks
from ftlib.models.checkpoint import Base
from ftlib.models.folder import GENERATION_CONFIG, copy_processor
from ftlib.models.quiet import quiet

SHARD_SIZE = 5_000_000_000
"""Bytes of a model's files: what transformers cut them into for years, which every host takes."""


def save_model(model: nn.Module, folder: Path, labels: tuple[str, ...], processor_from: Path) -> None:
    """Write a folder that stock transformers loads; what makes its inputs are `processor_from`'s own files."""
    _save(model, folder, labels, processor_from, None)


def save_without_weights(model: nn.Module, folder: Path, labels: tuple[str, ...], processor_from: Path) -> None:
    """Write what lies beside the weights in a folder that `save_model` would write."""
    _save(model, folder, labels, processor_from, {})


def _save(
    model: nn.Module,
    folder: Path,
    labels: tuple[str, ...],
    processor_from: Path,
    weights: dict[str, torch.Tensor] | None,
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    config = cast(Any, model).config
    if labels:
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: i for i, label in enumerate(labels)}
    with quiet():
        cast(Any, model).save_pretrained(folder, state_dict=weights, max_shard_size=SHARD_SIZE)
    copy_processor(processor_from, folder)


def save_adapter(model: nn.Module, folder: Path, like: Path, base: Base) -> None:
    """Write what is put over a model, and what says how it is asked: nothing is merged.

    Config and processor are byte copies of those in `like`, the checkpoint that it was trained from. `base` is what a
    loader puts it over.
    """
    if bottlenecks_of(model):
        write_bottlenecks(model, folder)
    else:
        with quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of peft, that the base has no config it could fetch
            cast(Any, model).save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)  # a card without contents
    write_adapter_config(folder, {**read_adapter(folder), "base_model_name_or_path": base.name, "revision": None})
    write_base(folder, base)
    copy_beside(like, folder)


def copy_beside(source: Path, target: Path) -> None:
    """Copy what lies beside a model's weights byte for byte: config, generation settings, processor."""
    for name in ("config.json", GENERATION_CONFIG):
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
    copy_processor(source, target)
