"""Bottleneck adapters (Houlsby et al. 2019, arXiv 1902.00751): two small layers after attention and after feed-forward.

    h + U act(D h + b) + b'        of what a sublayer computes, before it is added to what went in

They hang below a module that stock transformers has, and change what that returns, so all other parameters keep their
names. A folder of them has `adapter_config.json` and `adapter_model.safetensors` as peft's have, but peft has no such
adapter: `put_bottlenecks_over` loads it. What they bring whole beside themselves are norms, and a head.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.activations import ACT2FN
from typing_extensions import override

from ftlib.errors import ModelError
from ftlib.models.adapter import WEIGHTS, read_adapter, write_adapter_config
from ftlib.models.checkpoint import BOTTLENECK, Activation
from ftlib.models.unread import replace_parameters

_POST_NORM = ("attention.output.dropout", "output.dropout")
_PRE_NORM = ("self_attn.o_proj", "mlp.down_proj")
_PLACES: Mapping[str, tuple[str, str]] = {
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "camembert", "electra"), _POST_NORM),
    "distilbert": ("attention.out_lin", "ffn.dropout"),
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3"), _PRE_NORM),
    "gpt2": ("attn.resid_dropout", "mlp.dropout"),
}
"""By model type: the last module of each sublayer before the residual sum, dropout included. A family whose sublayers
end in a norm of their own (Gemma 2) has another, and is refused as every one that is not here."""
_STD = 0.01
_NAME = "bottleneck"


class Bottleneck(nn.Module):
    """Down to `width` numbers, and up again."""

    def __init__(self, hidden: int, width: int, activation: Activation) -> None:
        """Draw matrices from N(0, 0.01^2), cut at two deviations, by torch's current seed; biases are 0."""
        super().__init__()
        self.down, self.up, self.act = nn.Linear(hidden, width), nn.Linear(width, hidden), ACT2FN[activation]
        for layer in (self.down, self.up):
            nn.init.trunc_normal_(layer.weight, std=_STD, a=-2 * _STD, b=2 * _STD)
            nn.init.zeros_(layer.bias)

    @override
    def forward(self, h: Float[Tensor, "... hidden"]) -> Float[Tensor, "... hidden"]:
        """Return h with what the bottleneck adds to it."""
        return h + self.up(self.act(self.down(h))).to(h.dtype)


@dataclass(frozen=True)
class Bottlenecks:
    """What a model with bottlenecks says of them."""

    width: int
    activation: Activation
    whole: tuple[str, ...]
    """Parameters that an adapter's folder holds beside the bottlenecks: norms, and of a classifier its head."""
    head: tuple[str, ...]
    task: str | None


def bottlenecks_of(model: nn.Module) -> Bottlenecks | None:
    """Return what a model's bottlenecks are like; None for a model without."""
    return getattr(model, "bottlenecks", None)


def insert(model: nn.Module, width: int, activation: Activation, head: Collection[str], task: str | None) -> None:
    """Hang bottlenecks into a stock model, after each layer's attention and feed-forward; `head` is brought whole.

    Norms and head are read, since they will differ from the file's. Raises ModelError for a family whose sublayers'
    ends are not known.
    """
    config = cast(Any, model).config
    if config.model_type not in _PLACES:
        raise ModelError(
            f"tuning: it is not known where a sublayer of a {config.model_type!r} model ends, after which a bottleneck "
            f"belongs; there are {', '.join(sorted(_PLACES))}: use lora"
        )
    ends = "|".join(map(re.escape, _PLACES[config.model_type]))
    for name, module in [*model.named_modules()]:
        if re.search(rf"\.\d+\.({ends})$", name):
            module.add_module(_NAME, Bottleneck(config.hidden_size, width, activation))
            module.register_forward_hook(_through)
    norms = [name for name, module in model.named_modules() if type(module).__name__.endswith(("LayerNorm", "RMSNorm"))]
    whole = {name for name, _ in model.named_parameters() if _inside(name, (*norms, *head))}
    read = {id(parameter) for name, parameter in model.named_parameters() if name in whole}
    replace_parameters(model, lambda p: _read(p) if id(p) in read else p)
    cast(Any, model).bottlenecks = Bottlenecks(width, activation, tuple(sorted(whole)), tuple(head), task)


def _through(module: Any, _: object, out: Tensor) -> Tensor:
    return cast(Bottleneck, module.bottleneck)(out)


def _inside(name: str, modules: Collection[str]) -> bool:
    return any(name.startswith(f"{module}.") for module in modules)


def _read(parameter: nn.Parameter) -> nn.Parameter:
    """Return a parameter with values of its own; a copy of one that is unread is read."""
    return parameter if parameter.is_meta else deepcopy(parameter)


def own_names(model: nn.Module) -> set[str]:
    """Return the parameters that a folder of a model's bottlenecks holds: they, norms, and head."""
    made = bottlenecks_of(model)
    inside = {name for name, _ in model.named_parameters() if f".{_NAME}." in name}
    return inside | {*made.whole} if made else set()


def write_bottlenecks(model: nn.Module, folder: Path) -> None:
    """Write a model's bottlenecks, norms and head, and what they are like."""
    made = bottlenecks_of(model)
    assert made
    names = own_names(model)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: p.detach().cpu().contiguous() for name, p in model.named_parameters() if name in names}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    told = {"peft_type": BOTTLENECK, "width": made.width, "activation": made.activation, "task_type": made.task}
    told |= {"modules_to_save": [*made.head], "base_model_name_or_path": None, "revision": None}
    write_adapter_config(folder, told)


def put_bottlenecks_over(model: nn.Module, folder: str | Path) -> nn.Module:
    """Put the bottlenecks of a folder over its base model, whose norms and head they replace; return it in eval mode.

    Raises ModelError if a tensor of the folder has no place in the model, or a place no tensor.
    """
    folder = Path(folder)
    config, tensors = read_adapter(folder), load_file(folder / WEIGHTS)
    width, activation = config.get("width"), config.get("activation")
    if not isinstance(width, int) or width < 1 or activation not in get_args(Activation):
        raise ModelError(
            f"{folder}: adapter_config.json says width {width!r} and activation {activation!r}, which no "
            "bottleneck has; copy the folder again"
        )
    head, task = config.get("modules_to_save") or (), config.get("task_type")
    insert(model, width, cast(Activation, activation), cast("Collection[str]", head), cast("str | None", task))
    if stray := sorted(own_names(model) ^ tensors.keys()):
        raise ModelError(
            f"{folder} ({BOTTLENECK}) does not fit its base: {len(stray)} tensors are on one side only, among them "
            f"{stray[0]}; give the model that it was trained over"
        )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in tensors:
                if parameter.shape != tensors[name].shape:
                    raise ModelError(
                        f"{folder} ({BOTTLENECK}) has {name} of shape {[*tensors[name].shape]}, its base "
                        f"{[*parameter.shape]}; give the model that it was trained over"
                    )
                parameter.copy_(tensors[name])
    return model.requires_grad_(False).eval()
