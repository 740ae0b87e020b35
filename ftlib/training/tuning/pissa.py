"""PiSSA: LoRA that begins at a weight's own first directions (Meng et al. 2024, arXiv 2404.02948), by peft.

W = U S V^T; B = U_r S_r^1/2 and A = S_r^1/2 V_r^T begin as its first r directions over the scaling s, and what is
frozen is the rest, W - s B A. So an adapter of A and B alone stands on weights that nobody has. What is saved is what
training changed of W itself,

    s (B A - B_0 A_0) = s [B, -B_0] [A; A_0]

which is a plain adapter of twice the rank over W: merged, scaled and summed like any other.
"""

from __future__ import annotations

from math import sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ftlib.errors import RecipeError
from ftlib.models.adapter import WEIGHTS, read_adapter, write_adapter_config

if TYPE_CHECKING:
    from torch import nn


def take_out(model: nn.Module) -> None:
    """Let every adapter of a model begin at its weight's first directions, and take those out of the frozen weight.

    The frozen weights are in memory then, on every rank. A model without memory is left as it is. Raises RecipeError
    for a layer whose weight is no matrix, or has fewer directions than the rank.
    """
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    from ftlib.models.unread import values_of

    for name, layer in _layers(model):
        base, rank = layer.get_base_layer(), layer.r["default"]
        if base.weight.is_meta:
            return
        if not isinstance(base, nn.Linear | Conv1D):
            raise RecipeError(
                f"tuning.init: pissa takes matrices apart, and {name} is a {type(base).__name__}; name other targets"
            )
        if rank > min(base.weight.shape):
            raise RecipeError(
                f"tuning.init: pissa takes {rank} directions of {name}, whose weight of {[*base.weight.shape]} has "
                f"{min(base.weight.shape)}; lower rank"
            )
        with values_of(base):
            layer.pissa_init("default", "pissa")
            rest = base.weight.detach().clone()
        base.weight = nn.Parameter(rest, requires_grad=False)
        layer.register_buffer("first_A", layer.lora_A["default"].weight.detach().clone(), persistent=False)
        layer.register_buffer("first_B", layer.lora_B["default"].weight.detach().clone(), persistent=False)


def convert(model: nn.Module, adapter: Path) -> None:
    """Turn the adapter that peft has saved of a model into one over the weights before anything was taken out."""
    import torch
    from safetensors.torch import load_file, save_file

    tensors, config = load_file(adapter / WEIGHTS), read_adapter(adapter)
    for name, layer in _layers(model):
        a, b = f"{name}.lora_A.weight", f"{name}.lora_B.weight"
        tensors[a] = torch.cat([tensors[a], layer.first_A.to(tensors[a])])
        tensors[b] = torch.cat([tensors[b], -layer.first_B.to(tensors[b])], dim=1)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, adapter / WEIGHTS, {"format": "pt"})
    alphas = sqrt(2) if config.get("use_rslora") else 2.0  # for the same scaling at twice the rank
    config |= {"r": 2 * config["r"], "lora_alpha": alphas * config["lora_alpha"]}
    config["rank_pattern"] = {key: 2 * rank for key, rank in (config.get("rank_pattern") or {}).items()}
    config["alpha_pattern"] = {key: alphas * alpha for key, alpha in (config.get("alpha_pattern") or {}).items()}
    write_adapter_config(adapter, config)


def _layers(model: nn.Module) -> list[tuple[str, Any]]:
    from peft.tuners.lora import LoraLayer

    return [(name, module) for name, module in cast(Any, model).named_modules() if isinstance(module, LoraLayer)]
