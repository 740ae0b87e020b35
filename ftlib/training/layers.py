"""What is done to a model's transformer layers one at a time: which they are, and what they leave for the way back.

Each way replaces a layer's own `forward`, and no module: names in state dicts stay, and hooks on the layer (FSDP2's,
which gather and free it) stay outside of what is computed again or compiled.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial, wraps
from os import environ
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts
from transformers import PreTrainedModel

from ftlib.errors import RecipeError, TrainingError, first_line
from ftlib.kinds.collate import takes
from ftlib.training.compute import Checkpointing

WIDTH = 64
"""Tokens to a multiple of which batches are padded for compiled layers: fewer shapes, and whole tiles."""


def transformer_layers(model: nn.Module) -> list[nn.Module]:
    """Return the modules of the longest ModuleList: what is sharded, gathered, computed again and compiled as one.

    Of an encoder-decoder that writes, those of both halves.
    """
    if halves := _halves(model):
        return [layer for half in halves for layer in _longest(half, outermost=True)]
    return _longest(model)


def _halves(model: nn.Module) -> list[nn.Module]:
    plain: Any = getattr(model, "get_base_model", lambda: model)()
    if not (getattr(getattr(plain, "config", None), "is_encoder_decoder", False) and plain.can_generate()):
        return []
    return [plain.get_encoder(), plain.get_decoder()]


def _longest(model: nn.Module, *, outermost: bool = False) -> list[nn.Module]:
    """Return the modules of the longest list, or of the longest that lies in no other: T5's blocks hold lists too."""
    lists = {name: module for name, module in model.named_modules() if isinstance(module, nn.ModuleList)}
    if outermost:
        lists = {name: one for name, one in lists.items() if not any(name.startswith(f"{other}.") for other in lists)}
    return max(map(list, lists.values()), key=len, default=[])


def checkpoint_activations(model: nn.Module, policy: Checkpointing) -> None:
    """Let layers be computed again in the backward pass instead of keeping what they computed (Chen et al. 2016).

    arXiv 1604.06174, without re-entering autograd: parameters that are frozen, DDP and FSDP2 may have any part in it.
    Random numbers are those of the first time. Raises RecipeError for a model without layers.
    """
    if policy == "none":
        return
    every = policy if isinstance(policy, int) else 1
    contexts: dict[str, Any] = {"context_fn": _products_kept} if policy == "selective" else {}
    for layer in _layers(model, "activation_checkpointing")[every - 1 :: every]:
        layer.forward = _again(layer.forward, contexts)
    _without_cache(model)


def compile_layers(model: nn.Module) -> None:
    """Compile each layer by torch.compile: layers of one class share one compilation, for all widths.

    Raises RecipeError for a model without layers, or where there is no compiler; a layer's first forward pass raises
    TrainingError if it cannot be compiled.
    """
    compilers = [environ["CXX"]] if "CXX" in environ else ["g++", "clang++"]
    if not any(map(shutil.which, compilers)):
        raise RecipeError(
            f"compute.compile: there is no C++ compiler here, neither of {', '.join(compilers)}; install one on every "
            "worker, or set it to false"
        )
    layers = _layers(model, "compile")
    for layer in layers:
        layer.forward = _compiled(layer.forward, type(layer).__name__)
    _without_cache(model)


def _layers(model: nn.Module, field: str) -> list[nn.Module]:
    if layers := transformer_layers(model):
        return layers
    raise RecipeError(
        f"compute.{field}: works layer by layer, and {type(model).__name__} has no list of layers; leave it at its "
        "default"
    )


def _again(forward: Callable[..., Any], contexts: dict[str, Any]) -> Callable[..., Any]:
    @wraps(forward)
    def computed_again(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, **contexts, **kwargs)

    return computed_again


_SAVED = (
    *("mm", "addmm", "convolution", "_scaled_mm"),
    *("_scaled_dot_product_flash_attention", "_scaled_dot_product_efficient_attention"),
    *("_scaled_dot_product_cudnn_attention", "_scaled_dot_product_flash_attention_for_cpu"),
    *("_scaled_dot_product_fused_attention_overrideable", "_flash_attention_forward", "_efficient_attention_forward"),
)
"""Most of a layer's time and, beside what enters it, the least of its memory. Not `bmm`: it makes whole scores."""
_KEPT = {getattr(torch.ops.aten, name).default for name in _SAVED if hasattr(torch.ops.aten, name)}


def _policy(_: Any, operation: Any, *__: Any, **___: Any) -> CheckpointPolicy:
    kept = operation in _KEPT or "varlen_attn" in str(operation)
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE


_products_kept = partial(create_selective_checkpoint_contexts, _policy)


def _compiled(forward: Callable[..., Any], name: str) -> Callable[..., Any]:
    fast = torch.compile(forward, dynamic=True)

    @wraps(forward)
    def compiled(*args: Any, **kwargs: Any) -> Any:
        from torch._dynamo.exc import TorchDynamoException

        try:
            return fast(*args, **kwargs)
        except TorchDynamoException as error:
            raise TrainingError(
                f"compute.compile: torch cannot compile {name}: {first_line(error)}; set it to false"
            ) from error

    return compiled


def _without_cache(model: nn.Module) -> None:
    """Let no model keep keys and values for tokens to come: computed again, a layer would add its own twice.

    Who asks for them and for no gradients gets them, as a policy that draws its answers: nothing is computed again.
    """
    for module in model.modules():
        if isinstance(module, PreTrainedModel) and takes(module, "use_cache"):
            module.register_forward_pre_hook(_uncached, with_kwargs=True)


def _uncached(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    writes = kwargs.get("use_cache") and not torch.is_grad_enabled()
    return args, kwargs if writes else {**kwargs, "use_cache": False}
