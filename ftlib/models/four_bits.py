"""Linear layers in NF4: four bits a weight, and a scale for each 64 of them (Dettmers et al. 2023, arXiv 2305.14314).

    <stage>/model/                       every layer rounded to four bits and back, in fp32: what is mixed and merged
    <stage>/four_bits.safetensors        the same layers in four bits: what is held while an adapter trains over them

Both are written once. Rounding a second time would be another model: the scales are rounded by their own mean, which is
another one then. bitsandbytes computes it all, on CPUs in the bits that a GPU gives.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import torch
from jaxtyping import Float
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn.functional import linear
from typing_extensions import override

from ftlib.artifacts import below
from ftlib.errors import ModelError
from ftlib.models.checkpoint import Checkpoint, Quantization
from ftlib.models.quiet import quiet
from ftlib.storage.node_cache import local_path

FILE = "four_bits.safetensors"
BLOCK = 64
"""Weights that have a scale in common."""
_SCALES = 256
"""Scales that have one of their own in common, where they are rounded too."""
_PARTS = ("codes", "absmax", "nested_absmax", "offset")


def bitsandbytes() -> ModuleType:
    """Return the library. Raises ModelError if it is not installed."""
    if find_spec("bitsandbytes") is None:
        raise ModelError(
            "weights in four bits need bitsandbytes, which is not installed; pip install 'reglage[bitsandbytes]'"
        )
    with quiet():
        import bitsandbytes

    return bitsandbytes


def stock_config(quantization: Quantization, head: Sequence[str] | None) -> Any:
    """Return what stock transformers is given to hold the same layers in the same four bits.

    `head` names what an adapter brings whole; of None transformers finds the language model's head itself.
    """
    from transformers import BitsAndBytesConfig

    bitsandbytes()
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=quantization == "nf4_double",
        bnb_4bit_compute_dtype=torch.float32,
        llm_int8_skip_modules=None if head is None else [*dict.fromkeys(head)],
    )


def layers_to_quantize(model: nn.Module, head: Collection[str]) -> dict[str, nn.Linear]:
    """Return a plain model's linear layers by name, but for those of its head and what shares its weights with others.

    A model's embeddings, norms and convolutions stay as they are. Raises ModelError for a model without such a layer,
    or with one whose rows are no whole blocks.
    """
    owners: dict[int, set[int]] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(id(parameter), set()).add(id(module))
    layers = {
        name: module
        for name, module in model.named_modules()
        if type(module) is nn.Linear and name.split(".")[0] not in head and len(owners[id(module.weight)]) == 1
    }
    if not layers:
        raise ModelError(
            f"{type(model).__name__} has no linear layer in its body that could be held in four bits; use lora"
        )
    for name, layer in layers.items():
        if layer.in_features % BLOCK:  # seen with 0.50.2: rows of 32, 96 and 160 weights came back off by a quarter
            raise ModelError(
                f"{name} reads {layer.in_features} numbers, no multiple of {BLOCK}: bitsandbytes gives such rows other "
                "scales on CPUs than on GPUs; use lora"
            )
    return layers


class FourBits:
    """One matrix in NF4."""

    def __init__(self, parts: Mapping[str, Tensor], shape: tuple[int, ...]) -> None:
        self.parts, self.shape = parts, shape

    @classmethod
    def of(cls, weight: Float[Tensor, "out into"], quantization: Quantization) -> FourBits:
        """Round a matrix. Needs about five times its memory meanwhile."""
        library = bitsandbytes().functional
        codes, absmax = torch.ops.bitsandbytes.quantize_4bit(weight.contiguous(), BLOCK, "nf4", torch.uint8)
        parts = {"codes": codes.view(-1), "absmax": absmax}
        if quantization == "nf4_double":
            offset = absmax.mean()
            rounded, state = library.quantize_blockwise(absmax - offset, blocksize=_SCALES)
            parts |= {"absmax": rounded, "nested_absmax": state.absmax, "offset": offset}
        return cls(parts, tuple(weight.shape))

    def values(self, dtype: torch.dtype = torch.float32) -> Float[Tensor, "out into"]:
        """Return the matrix that the four bits stand for."""
        return _values(self.shape, dtype, *(self.parts.get(part) for part in _PARTS), code=_scale_code())


def _scale_code() -> Tensor:
    return bitsandbytes().functional.create_dynamic_map()


def _values(
    shape: tuple[int, ...],
    dtype: torch.dtype,
    codes: Tensor | None,
    absmax: Tensor | None,
    nested_absmax: Tensor | None,
    offset: Tensor | None,
    *,
    code: Tensor | None,
) -> Tensor:
    ops: Any = torch.ops.bitsandbytes
    if nested_absmax is not None:
        absmax = ops.dequantize_blockwise(absmax, nested_absmax, code, _SCALES, torch.float32) + offset
    return ops.dequantize_4bit(codes, absmax, BLOCK, "nf4", [*shape], dtype)


class FourBitLinear(nn.Module):
    """A linear layer that holds its weight in NF4, and makes it anew for each pass there and each back.

    What does not train is a buffer: FSDP2 keeps it whole on each rank, and no checkpoint has it.
    """

    def __init__(self, layer: nn.Linear, four_bits: FourBits) -> None:
        super().__init__()
        self.in_features, self.out_features, self.shape = layer.in_features, layer.out_features, four_bits.shape
        self.bias = layer.bias
        for part in _PARTS:
            self.register_buffer(part, four_bits.parts.get(part), persistent=False)
        double = "nested_absmax" in four_bits.parts
        self.register_buffer("code", _scale_code().to(layer.weight.device) if double else None, persistent=False)

    @override
    def forward(self, x: Float[Tensor, "... into"]) -> Float[Tensor, "... out"]:
        """Multiply by what the four bits stand for, in the type that is computed in."""
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        held = (*(getattr(self, part) for part in _PARTS), self.code)
        return cast(Tensor, _Product.apply(x, self.bias, self.shape, *held))

    def values(self) -> Float[Tensor, "out into"]:
        """Return the weight in fp32."""
        held = [getattr(self, part) for part in _PARTS]
        return _values(self.shape, torch.float32, *held, code=cast("Tensor | None", self.code))


class _Product(torch.autograd.Function):
    """x W' + b, which keeps the four bits for the way back, and no W."""

    @staticmethod
    @override
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, shape: tuple[int, ...], *held: Tensor | None) -> Tensor:
        ctx.shape, ctx.dtype = shape, x.dtype
        ctx.save_for_backward(*held)
        *parts, code = held
        weight = _values(shape, x.dtype, *parts, code=code)
        return linear(x, weight, None if bias is None else bias.to(x.dtype))

    @staticmethod
    @override
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = grad_outputs
        held = ctx.saved_tensors  # to be asked once: layers that are computed again give them once
        *parts, code = held
        of_x = of_bias = None
        if ctx.needs_input_grad[0]:
            of_x = gradient @ _values(ctx.shape, ctx.dtype, *parts, code=code)
        if ctx.needs_input_grad[1]:
            of_bias = gradient.flatten(0, -2).sum(0)
        return (of_x, of_bias, None, *(None for _ in held))


def written(layers: Mapping[str, FourBits]) -> dict[str, Tensor]:
    """Return layers by name as the tensors of a file."""
    return {f"{name}.{part}": tensor for name, one in layers.items() for part, tensor in one.parts.items()}


def hold_in_four_bits(model: nn.Module, head: Collection[str], quantization: Quantization, file: Path | None) -> None:
    """Put layers in four bits in the place of a tuned model's frozen linear layers; an adapter stays over them.

    `head` names its head's modules; `file` has their four bits. Without one they have the shapes of four bits alone,
    for a model on torch's meta device. Raises ModelError for a file that has a layer that is not the model's.
    """
    layers = dict(_frozen_layers(model, head))
    if file is None:
        for name, layer in layers.items():
            _replace(model, name, FourBitLinear(layer, _shapes(layer, quantization)))
        return
    with safe_open(file, "pt") as stored:
        has = {name.rpartition(".")[0] for name in stored.keys()}  # noqa: SIM118 - no mapping
        for name, layer in layers.items():
            plain = _plain(name)
            if plain not in has:
                continue  # it shares its weight with another
            parts = {part: f"{plain}.{part}" for part in _PARTS}
            names = {*stored.keys()}
            tensors = {part: stored.get_tensor(called) for part, called in parts.items() if called in names}
            _replace(model, name, FourBitLinear(layer, FourBits(tensors, tuple(layer.weight.shape))))


def _frozen_layers(model: nn.Module, head: Collection[str]) -> Iterator[tuple[str, nn.Linear]]:
    """Yield a tuned model's frozen linear layers, those below an adapter too, and none of the head's copies."""
    heads = {_plain(name).split(".")[0] for name in head}
    for name, module in model.named_modules():
        copied = ".modules_to_save." in name or ".original_module." in f"{name}."
        if copied or _plain(name).split(".")[0] in heads:
            continue
        if type(module) is nn.Linear and not module.weight.requires_grad:
            yield name, module


def _plain(name: str) -> str:
    """Return what a layer is called without an adapter over the model."""
    return name.removeprefix("base_model.model.").removesuffix(".base_layer").replace(".modules_to_save.default", "")


def _replace(model: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(model.get_submodule(parent), own, layer)


def _shapes(layer: nn.Linear, quantization: Quantization) -> FourBits:
    device, numbers = layer.weight.device, layer.weight.numel()
    blocks = -(numbers // -BLOCK)

    def empty(count: int, dtype: torch.dtype) -> Tensor:
        return torch.empty(count, dtype=dtype, device=device)

    parts = {"codes": empty(-(numbers // -2), torch.uint8)}
    if quantization == "nf4_double":
        parts |= {"absmax": empty(blocks, torch.uint8), "nested_absmax": empty(-(blocks // -_SCALES), torch.float32)}
        parts["offset"] = torch.empty((), device=device)
    else:
        parts["absmax"] = empty(blocks, torch.float32)
    return FourBits(parts, tuple(layer.weight.shape))


def four_bits_of(start: Checkpoint) -> Path:
    """Return the file with the four bits of a checkpoint that was rounded, or of what an adapter stands on."""
    return local_path(below(os.path.dirname(start.base.uri if start.base else start.model_uri), Path(FILE)))


def four_bit_weights(model: nn.Module) -> dict[str, FourBitLinear]:
    """Return a placed model's layers in four bits, by the name that their weight has where it is held in full."""
    return {f"{name}.weight": m for name, m in model.named_modules() if isinstance(m, FourBitLinear)}


def round_to_four_bits(model: nn.Module, head: Collection[str], quantization: Quantization) -> None:
    """Round a plain model's linear layers to four bits and back, in place, one at a time."""
    with torch.no_grad():
        for layer in layers_to_quantize(model, head).values():
            layer.weight.copy_(FourBits.of(layer.weight.detach().float(), quantization).values())
