"""Adapter folders as peft writes them: scaled to a place on the line, or merged into the model they stand on.

W0 + alpha (s B A) is (1 - alpha) W0 + alpha (W0 + s B A), so an adapter is moved along the line by multiplying its
scaling, module by module where alpha differs: no weights are read. Whatever else it holds has to be treated too, or the
result is another model: modules
that were trained in full (heads, biases) lie in the folder as they ended and are mixed with the base's. So are the
factors of (IA)3, with ones: (1 - alpha) W0 + alpha diag(l) W0 is diag(1 + alpha (l - 1)) W0.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ftlib.config import BatchKind
from ftlib.errors import ModelError
from ftlib.extensions import kind_of
from ftlib.kinds.kind import KINDS
from ftlib.kinds.loading import ADAPTED, load_adapter, load_model, merged, put_over
from ftlib.kinds.writing import save_model
from ftlib.merging.methods.kernel import Chunk, Kernel
from ftlib.merging.methods.lerp import lerp
from ftlib.merging.plan import check_layers
from ftlib.models.adapter import WEIGHTS, read_adapter, write_adapter_config
from ftlib.models.config_meanings import compare_configs
from ftlib.models.folder import copy_processor, labels_of, read_config
from ftlib.models.parameter_names import is_factor, layers_in
from ftlib.models.saved_names import spans_in_memory
from ftlib.models.tensor_files import TensorSpan, read_header
from ftlib.models.torch_dtypes import DTYPES

_WRAPPERS = re.compile(r"\.(base_layer|modules_to_save|original_module)\.")
"""Modules that peft puts between a name and its parameter; trained biases are saved with them."""
_BASE_MOVED = ("pissa", "olora", "corda", "loftq")
"""Ways to start an adapter that change the weights below it: what its folder stands on is not the base model."""


def unscaled(adapter: Path) -> list[str]:
    """Return what of an adapter its scaling does not reach; empty for plain LoRA and rsLoRA."""
    config = read_adapter(adapter)
    parts = [*immovable(config), *(["modules_to_save"] if config.get("modules_to_save") else [])]
    parts += ["peft_type"] if config["peft_type"] == "IA3" and "peft_type" not in parts else []
    return [*parts, *(["bias"] if config.get("bias", "none") != "none" else [])]


def immovable(config: dict[str, Any]) -> list[str]:
    """Return what is neither scaled nor mixed."""
    parts = [name for name in ("use_dora", "trainable_token_indices", "lora_bias") if config.get(name)]
    start = str(config.get("init_lora_weights")).lower()
    parts += ["init_lora_weights"] if start.startswith(_BASE_MOVED) else []
    return [*parts, *(["peft_type"] if config["peft_type"] not in ("LORA", "IA3") else [])]


def write_scaled(
    adapter: Path, base: Path, merge: Kernel | None, out: Path, stands_on: tuple[str, str | None] | None = None
) -> list[str]:
    """Write the adapter where a method (`Kernel.scales_adapter`) puts it, between its base and itself.

    Returns the tensors that were mixed, not scaled. `lora_alpha` and every `alpha_pattern` are multiplied, or every
    module gets an alpha of its own where the method says so; the low-rank matrices keep their bytes, and modules that
    the adapter holds whole are mixed with the base's, factors of (IA)3 with ones. Without a method, or at alpha 1, it
    is the adapter as it is, of any type. `stands_on`, a name and revision, replaces what the config says of its base.

    Raises ModelError, naming what, for adapters that are no points of a line in these terms: DoRA normalises after
    adding, and some ways to start change the base.
    """
    config = read_adapter(adapter)
    moves = merge if merge and merge.whole_copy() != 1 else None
    if moves and (why := immovable(config)):
        raise ModelError(
            f"{adapter} cannot be scaled ({', '.join(why)}): its place on the line is another model's; "
            "write merged weights instead"
        )
    tensors = adapter_tensors(adapter)
    spans = spans_in_memory(base)
    if not config.get("target_parameters"):  # of single parameters, whose pairs are named in another way
        _check_fit(tensors, spans, adapter, base)
    layers = layers_in(spans)
    if moves:
        check_layers(kind_of(type(moves)), moves.least_layers, layers, str(base))
    whole = [name for name in tensors if ".lora_" not in name] if moves else []
    if moves and config["peft_type"] == "LORA":
        factors = (name for name in tensors if ".lora_" in name)
        _scale(config, {module_of(name): moves.scaling(chunk_of(name, spans, layers)) for name in factors})
    for name in whole:
        assert moves
        alpha = moves.scaling(chunk_of(name, spans, layers))
        tensors[name] = _mixed(_start_of(name, tensors[name], spans, base), tensors[name], alpha)
    out.mkdir(parents=True, exist_ok=True)
    save_file(tensors, out / WEIGHTS, metadata={"format": "pt"})
    if stands_on:
        config["base_model_name_or_path"], config["revision"] = stands_on
    write_adapter_config(out, config)
    copy_processor(adapter, out)
    return whole


def _scale(config: dict[str, Any], alphas: Mapping[str, float]) -> None:
    """Multiply the scaling that an adapter's config says of its modules."""
    if len({*alphas.values()}) == 1:
        (alpha,) = {*alphas.values()}
        config["lora_alpha"] = config["lora_alpha"] * alpha
        config["alpha_pattern"] = {key: value * alpha for key, value in (config.get("alpha_pattern") or {}).items()}
    elif config.get("target_parameters"):
        raise ModelError(
            "an adapter of single parameters (target_parameters) has one scaling for all of them, and layers are to "
            "get alphas of their own: use wise_ft without modules and depth, or write merged weights"
        )
    else:
        config["alpha_pattern"] = {
            re.escape(module): number_of(config, "lora_alpha", module) * alpha for module, alpha in alphas.items()
        }


def number_of(config: Mapping[str, Any], name: Literal["r", "lora_alpha"], module: str) -> float:
    """Return a module's rank or alpha, as peft reads an adapter's config."""
    patterns = config.get("rank_pattern" if name == "r" else "alpha_pattern") or {}
    own = (value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", module))
    return next(own, config[name])


def module_of(name: str) -> str:
    """Return which module of the plain model a low-rank matrix, or a factor of (IA)3, belongs to."""
    return re.split(r"\.(?:lora_|ia3_l)", plain_name(name))[0]


def chunk_of(name: str, spans: Mapping[str, TensorSpan], layers: int) -> Chunk:
    """Return which of the plain model's tensors one of an adapter changes, as its files call it, for a merge method."""
    changed = plain_name(name) if _is_whole(name) else f"{module_of(name)}.weight"
    return Chunk(spans[changed].name if changed in spans else changed, layers)


def _check_fit(tensors: dict[str, Tensor], spans: dict[str, TensorSpan], adapter: Path, base: Path) -> None:
    """Raise ModelError if a low-rank pair has no tensor of the base to stand on, or one of another shape."""
    for name, a in tensors.items():
        inner, lora_a, rest = name.partition(".lora_A.")
        if not lora_a or f"{inner}.lora_B.{rest}" not in tensors:
            continue
        below = spans.get(plain_name(inner) + ".weight")
        product = (tensors[f"{inner}.lora_B.{rest}"].shape[0], a.shape[1])
        if below is None or sorted(below.shape[:2]) != sorted(product):  # GPT-2 keeps its matrices the other way round
            has = "no such tensor" if below is None else f"one of shape {[*below.shape]}"
            raise ModelError(
                f"{adapter} changes {inner.removeprefix(ADAPTED)!r} by a matrix of shape {[*product]}, and {base} has "
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


def adapter_tensors(adapter: Path) -> dict[str, Tensor]:
    """Read an adapter's tensors. Raises ModelError for a damaged file, and for values that are not finite."""
    try:
        tensors = load_file(adapter / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{adapter / WEIGHTS} is not a safetensors file: {error}; save it again") from error
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ModelError(f"{adapter / WEIGHTS}: tensor {name!r} holds NaN or infinity; that training broke")
    return tensors


def _base_span(name: str, tensor: Tensor, spans: dict[str, TensorSpan], base: Path) -> TensorSpan:
    span = spans.get(plain_name(name))
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


def _start_of(name: str, end: Tensor, spans: dict[str, TensorSpan], base: Path) -> Tensor:
    """Return what stands at alpha 0 for a tensor that an adapter holds whole: the base's own, or ones for factors."""
    if is_factor(name):
        scaled = spans.get(plain_name(name).removesuffix(".ia3_l") + ".weight")
        if scaled is None or end.numel() not in scaled.shape:
            raise ModelError(
                f"the adapter scales {plain_name(name)!r} by {end.numel()} factors, and {base} has "
                f"{'no such layer' if scaled is None else f'one of shape {[*scaled.shape]}'}; give the model that the "
                "adapter was trained over"
            )
        return torch.ones_like(end)
    span = _base_span(name, end, spans, base)
    with safe_open(span.file, "pt") as file:
        return cast(Tensor, file.get_tensor(span.name)).to(end.dtype)


def whole_ends(adapter: Path, base: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the start and the end of what an adapter holds whole, by the parameter's name in the plain model."""
    tensors, spans = adapter_tensors(adapter), spans_in_memory(base)
    whole = {name: end for name, end in tensors.items() if ".lora_" not in name}
    return {plain_name(name): (_start_of(name, end, spans, base), end) for name, end in whole.items()}


def plain_name(name: str) -> str:
    """Return what a parameter under an adapter is called in the plain model; a factor has a name in its layer."""
    own = name.removeprefix(ADAPTED).replace(".modules_to_save.default.", ".modules_to_save.")
    return _WRAPPERS.sub(".", own.removesuffix(".default") if is_factor(own) else own)


def _mixed(start: Tensor, end: Tensor, alpha: float) -> Tensor:
    if alpha == 0.0:
        return start
    out = torch.empty_like(end)
    lerp(start, end, alpha, out)
    return out


def write_merged(adapter: Path, base: Path, out: Path) -> None:
    """Write the model that an adapter makes of its base: merged in fp32 by peft, rounded once to the base's dtypes.

    The whole model is in memory meanwhile. Raises ModelError if the two do not fit together or cannot be merged.
    """
    _write_dense(merged(_put_over(adapter, base)), adapter, base, out)


def write_completed(adapter: Path, base: Path, out: Path) -> list[str]:
    """Write a base with what it lacks of the adapter's model, as a head that was trained before the adapter was.

    Returns what the adapter gave it, by the names in the plain model. Raises what `write_merged` raises.
    """
    spans = spans_in_memory(base)
    over = _put_over(adapter, base)
    lacks = [name for name in map(plain_name, adapter_tensors(adapter)) if _is_whole(name) and name not in spans]
    _write_dense(cast(Any, over).unload(), adapter, base, out)
    return lacks


def lacks_head(adapter: Path, base: Path) -> bool:
    """Say whether a base lacks something that an adapter holds whole, and the adapter says which model it makes."""
    if not (adapter / "config.json").is_file():
        return False
    spans = spans_in_memory(base)
    names = (span.name for span in read_header(adapter / WEIGHTS).spans)
    return any(_is_whole(name) and plain_name(name) not in spans for name in names)


def _is_whole(name: str) -> bool:
    """Say whether a tensor of an adapter stands in the place of one of the model's."""
    return ".lora_" not in name and not is_factor(name)


def _put_over(adapter: Path, base: Path) -> nn.Module:
    config = read_adapter(adapter)
    kind = _kind(adapter, config, base)
    return (
        load_adapter(adapter, base, kind) if lacks_head(adapter, base) else put_over(load_model(base, kind), adapter)[0]
    )


def _write_dense(model: nn.Module, adapter: Path, base: Path, out: Path) -> None:
    """Write a model that was made of a base in the base's dtypes; its labels are the adapter's where that has them."""
    spans = spans_in_memory(base)
    body = f"{getattr(model, 'base_model_prefix', '')}."
    dtypes = {name: DTYPES[span.dtype] for name, span in spans.items()}
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        stored = dtypes.get(name) or dtypes.get(name.removeprefix(body))
        if stored and tensor.is_floating_point():
            tensor.data = tensor.data.to(stored)
    cast(Any, model).config.dtype = next(iter(_floating(spans.values())), torch.float32)
    save_model(model, out, labels_of(adapter if lacks_head(adapter, base) else base), base)
    copy_processor(adapter, out)  # its own, where tokens were added


def _floating(spans: Iterable[TensorSpan]) -> list[torch.dtype]:
    dtypes = (DTYPES[span.dtype] for span in spans if span.dtype in DTYPES)
    return [dtype for dtype in dtypes if dtype.is_floating_point]


def _kind(adapter: Path, config: dict[str, Any], base: Path) -> BatchKind:
    """Return the plainest kind of batch that a model of the adapter's task answers."""
    task, made_by = config.get("task_type"), (read_config(base).get("architectures") or [""])[0]
    for kind in KINDS.values():
        # `get_peft_model` does not ask for a task.
        if task == kind.task_type if task else made_by.endswith(kind.architectures):
            return kind.name
    tasks = ", ".join(dict.fromkeys(kind.task_type for kind in KINDS.values() if kind.task_type))
    raise ModelError(
        f"{adapter} is for the task {task or made_by!r}; adapters for {tasks} are merged here: merge it with peft's "
        "merge_and_unload, and give the folder that saves"
    )
