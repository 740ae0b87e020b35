"""Models in memory: loading a folder, fresh heads, writing. Safetensors and JSON only; no code from a folder runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import AutoTokenizer

from ftlib.config import BatchKind
from ftlib.data.processor import Processor
from ftlib.errors import ModelError, first_line
from ftlib.kinds.kind import KINDS
from ftlib.kinds.padding import settle
from ftlib.models.checkpoint import Checkpoint
from ftlib.models.folder import check_model, check_no_code, check_tokenizer, copy_tokenizer, read_config
from ftlib.models.limits import load_config
from ftlib.models.quiet import quiet
from ftlib.models.special_tokens import kept_apart
from ftlib.wording import counted, some

_LOADING: dict[str, Any] = {"local_files_only": True, "use_safetensors": True, "trust_remote_code": False}


def load(checkpoint: Checkpoint, kind: BatchKind, dropout: float | None = None) -> nn.Module:
    """Return the model of a checkpoint of any form, in fp32 and eval mode, with dropouts of its config set if given.

    Raises ModelError if it cannot be loaded or if a tensor would be left at random.
    """
    return load_for_training(checkpoint.weights_folder, kind, dropout)


def load_model(folder: Path, kind: BatchKind) -> nn.Module:
    """Load a folder as stock transformers does, in fp32 and eval mode.

    Raises ModelError if it cannot be loaded or if a tensor would be left at random.
    """
    return load_for_training(folder, kind, dropout=None)


def load_language_model(folder: Path) -> nn.Module:
    """Load a folder as a causal language model, whatever it was trained to follow."""
    return load_model(folder, next(kind.name for kind in KINDS.values() if kind.language))


def load_with_gaps(folder: Path, kind: BatchKind, **config: object) -> tuple[nn.Module, set[str]]:
    """Load a folder and say which tensors it lacked (freshly initialised from torch's current seed).

    `config` overrides the model's own, for example `num_labels`. Raises ModelError for a folder that `check_model`
    refuses, that stock transformers cannot load, or whose weights are not finite.
    """
    loader = KINDS[kind].head().auto_class
    check_model(folder)
    settled = load_config(folder, **config)
    settle(settled, folder, kind, lambda: load_tokenizer(folder))
    try:
        with quiet():
            model, info = loader.from_pretrained(
                folder,
                config=settled,
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **_LOADING,
            )
    except Exception as error:  # of transformers, and of whatever the config makes it build
        raise ModelError(
            f"{folder} cannot be loaded as a {loader.__name__.removeprefix('AutoModelFor')} model: {first_line(error)}"
            "; correct its config.json, or give another model"
        ) from error
    _check_finite(model, folder)
    mismatched = {entry[0] for entry in info["mismatched_keys"]}
    return model.eval(), {*info["missing_keys"], *mismatched}


def empty_model(loader: Any, config: Any, folder: Path) -> nn.Module:
    """Make the model that a folder's config describes. Raises ModelError if it describes none."""
    try:
        return loader.from_config(config)
    except Exception as error:
        raise ModelError(f"{folder}/config.json makes no model: {first_line(error)}; correct it") from error


def with_fresh_head(model: nn.Module) -> set[str]:
    """Give a model a head from torch's current seed, and return its parameters' names: the old one knew other things.

    A tensor of the wrong shape is fresh anyway; three labels and three other labels have the same shape.
    """
    fresh = cast(Any, type(model))(cast(Any, model).config).eval()
    for name in head_modules(model):
        setattr(model, name, getattr(fresh, name))
    return {name for name, _ in model.named_parameters() if name.split(".")[0] in head_modules(model)}


_DROPOUTS = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "dropout",
    "attention_dropout",
    "activation_dropout",
    "embd_pdrop",
    "attn_pdrop",
    "resid_pdrop",
)


def load_for_training(folder: Path, kind: BatchKind, dropout: float | None) -> nn.Module:
    """Load a folder with every dropout of its config set to `dropout`, if that is given."""
    config = read_config(folder)
    changed: dict[str, object] = {} if dropout is None else {key: dropout for key in _DROPOUTS if key in config}
    if dropout is not None and config.get("classifier_dropout", None) is not None:
        changed["classifier_dropout"] = dropout
    model, missing = load_with_gaps(folder, kind, **changed)
    if missing:
        raise ModelError(
            f"{folder} lacks {counted(len(missing), 'tensor')}, among them {some(sorted(missing), 3)}; copy or "
            "download it again"
        )
    return model


def head_modules(model: nn.Module) -> list[str]:
    """Return the names of the top-level modules with parameters that are not the body: the task head."""
    body = cast(Any, model).base_model_prefix
    return [name for name, child in model.named_children() if name != body and any(True for _ in child.parameters())]


def load_tokenizer(folder: Path) -> Any:
    """Load a folder's tokenizer.

    Raises ModelError if it has none that stock transformers can load, or if its config, which says which tokenizer it
    is, cannot be used.
    """
    load_config(folder)
    check_no_code(folder)
    check_tokenizer(folder)
    try:
        return kept_apart(AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False))
    except Exception as error:  # the Rust library raises the bare class for a damaged tokenizer.json
        raise ModelError(
            f"{folder} has no usable tokenizer: {first_line(error)}; save its tokenizer there again"
        ) from error


def load_processor(folder: Path) -> Processor:
    """Return what makes a model's inputs; its parts are loaded when they are asked for.

    They raise as `load_tokenizer` does.
    """
    return Processor(lambda: load_tokenizer(folder))


def _check_finite(model: nn.Module, folder: Path) -> None:
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and not parameter.detach().sum().isfinite():  # cheaper than every value
            bad = int((~parameter.isfinite()).sum())
            if bad:
                raise ModelError(
                    f"{folder}: tensor {name!r} holds NaN or infinity, {bad} of {parameter.numel()} values: the "
                    "training that made it broke, or the file is damaged; give another checkpoint"
                )


def save_model(model: nn.Module, folder: Path, labels: tuple[str, ...], tokenizer_from: Path) -> None:
    """Write a folder that stock transformers loads; tokenizer files are byte copies of `tokenizer_from`'s."""
    folder.mkdir(parents=True, exist_ok=True)
    config = cast(Any, model).config
    if labels:
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: i for i, label in enumerate(labels)}
    with quiet():
        cast(Any, model).save_pretrained(folder, max_shard_size="5GB")
    copy_tokenizer(tokenizer_from, folder)
