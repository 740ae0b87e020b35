"""Adapter folders as peft writes them: scaled to a place on the line, or merged into the model they stand on.

W0 + alpha (s B A) is (1 - alpha) W0 + alpha (W0 + s B A), so an adapter is moved along the line by multiplying its
scaling: no weights are read. Whatever else it holds has to be treated too, or the result is another model: modules
that were trained in full (heads, biases) lie in the folder as they ended and are mixed with the base's.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ftlib.config import BatchKind
from ftlib.errors import ModelError, first_line
from ftlib.kinds.kind import KINDS
from ftlib.kinds.loading import load_model, save_model
from ftlib.merging.methods.lerp import lerp
from ftlib.models.config_meanings import compare_configs
from ftlib.models.folder import (
    ADAPTER_CONFIG,
    check_no_code,
    copy_tokenizer,
    labels_of,
    read_config,
    read_json,
    tensor_spans,
)
from ftlib.models.tensor_files import Span, read_header
from ftlib.models.torch_dtypes import DTYPES

WEIGHTS = "adapter_model.safetensors"

_PREFIX = "base_model.model."
_WRAPPERS = re.compile(r"\.(base_layer|modules_to_save|original_module)\.")
"""Modules that peft puts between a name and its parameter; trained biases are saved with them."""
_BASE_MOVED = ("pissa", "olora", "corda", "loftq")
"""Ways to start an adapter that change the weights below it: what its folder stands on is not the base model."""


def read_adapter(folder: Path) -> dict[str, Any]:
    """Read an adapter's config.

    Raises ModelError if it is none, asks for code of its own, or its weights are missing, damaged, a pickle, or of
    another rank than it says.
    """
    path = folder / ADAPTER_CONFIG
    if not path.is_file():
        raise ModelError(f"{folder} has no {ADAPTER_CONFIG}; it is not an adapter as peft writes it")
    found = read_json(path)
    config = cast("dict[str, Any]", found) if isinstance(found, dict) else {}
    if not isinstance(config.get("peft_type"), str):
        raise ModelError(f"{path} names no peft_type; it is not an adapter as peft writes it")
    check_no_code(folder)
    if not (folder / WEIGHTS).is_file():
        pickled = "; adapter_model.bin is a pickle and is never opened: save it as safetensors"
        absent = "; save the adapter there again"
        raise ModelError(f"{folder} has no {WEIGHTS}{pickled if (folder / 'adapter_model.bin').is_file() else absent}")
    spans = read_header(folder / WEIGHTS).spans
    if config["peft_type"] == "LORA":
        _check_scaling(path, config, spans)
    return config


def _check_scaling(path: Path, config: Mapping[str, Any], spans: Iterable[Span]) -> None:
    """Refuse a rank that is not the matrices': an adapter counts alpha / r times, whatever lies in its file."""
    ranks, alphas = ((config.get(name) or {}).values() for name in ("rank_pattern", "alpha_pattern"))
    for name, numbers in (("r", (config.get("r"), *ranks)), ("lora_alpha", (config.get("lora_alpha"), *alphas))):
        for number in numbers:
            if isinstance(number, bool) or not isinstance(number, int | float) or (name == "r" and number < 1):
                raise ModelError(f"{path}: {name} must be a number, got {number!r}; save the adapter again")
    for span in spans:
        if span.name.endswith(".lora_A.weight") and span.shape[:1] and span.shape[0] not in {config["r"], *ranks}:
            said = ", ".join(str(rank) for rank in dict.fromkeys((config["r"], *ranks)))
            raise ModelError(
                f"{path} says rank {said}, but {span.name} has rank {span.shape[0]}: it would count by another factor "
                "than it was trained with; restore the config that it was saved with"
            )


def unscaled(adapter: Path) -> list[str]:
    """Return what of an adapter its scaling does not reach; empty for plain LoRA and rsLoRA."""
    config = read_adapter(adapter)
    found = [*_immovable(config), *(["modules_to_save"] if config.get("modules_to_save") else [])]
    return [*found, *(["bias"] if config.get("bias", "none") != "none" else [])]


def _immovable(config: dict[str, Any]) -> list[str]:
    """Return what is neither scaled nor mixed."""
    found = [name for name in ("use_dora", "trainable_token_indices", "lora_bias") if config.get(name)]
    start = str(config.get("init_lora_weights")).lower()
    found += ["init_lora_weights"] if start.startswith(_BASE_MOVED) else []
    return [*found, *(["peft_type"] if config["peft_type"] != "LORA" else [])]


def write_scaled(
    adapter: Path, base: Path, alpha: float, out: Path, stands_on: tuple[str, str | None] | None = None
) -> list[str]:
    """Write the adapter at `alpha` of the way from its base to it, and return the tensors that were mixed, not scaled.

    `lora_alpha` and every `alpha_pattern` are multiplied, the low-rank matrices keep their bytes, and modules that the
    adapter holds whole are mixed with the base's. At alpha 1 it is the adapter as it is, of any type. `stands_on`, a
    name and revision, replaces what the config says of its base model.

    Raises ModelError, naming what, for adapters that are no points of a line in these terms: DoRA normalises after
    adding, and some ways to start change the base.
    """
    config = read_adapter(adapter)
    if alpha != 1.0 and (immovable := _immovable(config)):
        raise ModelError(
            f"{adapter} cannot be scaled ({', '.join(immovable)}): its place on the line is another model's; "
            "write merged weights instead"
        )
    tensors = _tensors(adapter)
    spans = tensor_spans(base)
    if not config.get("target_parameters"):  # of single parameters, whose pairs are named in another way
        _check_fit(tensors, spans, adapter, base)
    whole = [name for name in tensors if ".lora_" not in name] if alpha != 1.0 else []
    if alpha != 1.0:
        config["lora_alpha"] = config["lora_alpha"] * alpha
        config["alpha_pattern"] = {key: value * alpha for key, value in (config.get("alpha_pattern") or {}).items()}
    for name in whole:
        tensors[name] = _mixed(_base_span(name, tensors[name], spans, base), tensors[name], alpha)
    out.mkdir(parents=True, exist_ok=True)
    save_file(tensors, out / WEIGHTS, metadata={"format": "pt"})
    if stands_on:
        config["base_model_name_or_path"], config["revision"] = stands_on
    (out / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    copy_tokenizer(adapter, out)
    return whole


def _check_fit(tensors: dict[str, Tensor], spans: dict[str, Span], adapter: Path, base: Path) -> None:
    """Raise ModelError if a low-rank pair has no tensor of the base to stand on, or one of another shape."""
    for name, a in tensors.items():
        inner, lora_a, rest = name.partition(".lora_A.")
        if not lora_a or f"{inner}.lora_B.{rest}" not in tensors:
            continue
        below = spans.get(_WRAPPERS.sub(".", inner.removeprefix(_PREFIX)) + ".weight")
        made = (tensors[f"{inner}.lora_B.{rest}"].shape[0], a.shape[1])
        if below is None or sorted(below.shape[:2]) != sorted(made):  # GPT-2 keeps its matrices the other way round
            has = "no such tensor" if below is None else f"one of shape {[*below.shape]}"
            raise ModelError(
                f"{adapter} changes {inner.removeprefix(_PREFIX)!r} by a matrix of shape {[*made]}, and {base} has "
                f"{has}; give the model that the adapter was trained over"
            )


def stands_elsewhere(adapter: Path, base: Path) -> list[str]:
    """Say so if the folder that an adapter names as its base model is there, and is another one.

    Raises ModelError if their configs give equal tensors another meaning.
    """
    named = str(read_adapter(adapter).get("base_model_name_or_path") or "")
    if not named or not Path(named).is_dir() or Path(named).samefile(base):
        return []
    over = f"{adapter} was trained over {named}, by its config, and A is {base}; that they are the same is your word"
    if not (Path(named) / "config.json").is_file():
        return [over]
    try:
        return [over, *compare_configs(Path(named), base, (named, str(base)), str(base))]
    except ModelError as error:
        raise ModelError(f"{over}, but {error}: give the model that the adapter was trained over") from error


def _tensors(adapter: Path) -> dict[str, Tensor]:
    try:
        tensors = load_file(adapter / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{adapter / WEIGHTS} is not a safetensors file: {error}; save it again") from error
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ModelError(f"{adapter / WEIGHTS}: tensor {name!r} holds NaN or infinity; that training broke")
    return tensors


def _base_span(name: str, tensor: Tensor, spans: dict[str, Span], base: Path) -> Span:
    span = spans.get(_WRAPPERS.sub(".", name.removeprefix(_PREFIX)))
    if span is None:
        raise ModelError(
            f"the adapter holds {name!r} whole, and {base} has no such tensor to mix it with; give the model whose "
            "head was fitted before the adapter was trained"
        )
    if span.shape != tuple(tensor.shape):
        raise ModelError(
            f"the adapter holds {name!r} with shape {[*tensor.shape]}, but {base} has it with "
            f"{[*span.shape]}; give the model that the adapter was trained over"
        )
    return span


def _mixed(span: Span, end: Tensor, alpha: float) -> Tensor:
    with safe_open(span.file, "pt") as file:
        start = cast(Tensor, file.get_tensor(span.name)).to(end.dtype)
    if alpha == 0.0:
        return start
    out = torch.empty_like(end)
    lerp(start, end, alpha, out)
    return out


def write_merged(adapter: Path, base: Path, out: Path) -> None:
    """Write the model that an adapter makes of its base: merged in fp32 by peft, rounded once to the base's dtypes.

    The whole model is in memory meanwhile. Raises ModelError if the two do not fit together or cannot be merged.
    """
    from peft import PeftModel, get_peft_model_state_dict

    config = read_adapter(adapter)
    model = load_model(base, _kind(adapter, config, base))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # transformers' own about its names; missing keys are looked for below
            wrapped: Any = PeftModel.from_pretrained(cast(Any, model), adapter, is_trainable=False)
        if stray := sorted(get_peft_model_state_dict(wrapped).keys() ^ _tensors(adapter).keys()):
            raise ValueError(
                f"{len(stray)} tensors are on one side only, among them {stray[0]}; is it the base it was trained over?"
            )
        merged: nn.Module = wrapped.merge_and_unload(safe_merge=True)
    except (ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{adapter} ({config['peft_type']}) cannot be merged into {base}: {first_line(error)}"
        ) from error
    spans = tensor_spans(base)
    for name, tensor in (*merged.named_parameters(), *merged.named_buffers()):
        if name in spans and tensor.is_floating_point():
            tensor.data = tensor.data.to(DTYPES[spans[name].dtype])
    cast(Any, merged).config.dtype = next(iter(_floating(spans.values())), torch.float32)
    save_model(merged, out, labels_of(base), base)
    copy_tokenizer(adapter, out)  # its own, where tokens were added


def _floating(spans: Iterable[Span]) -> list[torch.dtype]:
    found = (DTYPES[span.dtype] for span in spans if span.dtype in DTYPES)
    return [dtype for dtype in found if dtype.is_floating_point]


def _kind(adapter: Path, config: dict[str, Any], base: Path) -> BatchKind:
    """Return the plainest kind of batch that a model of the adapter's task answers."""
    task, made_by = config.get("task_type"), (read_config(base).get("architectures") or [""])[0]
    for kind in KINDS.values():
        # `get_peft_model` does not ask for a task.
        if task == kind.task_type or (task is None and made_by.endswith(kind.architectures)):
            return kind.name
    tasks = ", ".join(dict.fromkeys(kind.task_type for kind in KINDS.values()))
    raise ModelError(
        f"{adapter} is for the task {task or made_by!r}; adapters for {tasks} are merged here: merge it with peft's "
        "merge_and_unload, and give the folder that saves"
    )
