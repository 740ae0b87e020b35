"""Frozen weights in half the memory: held in bf16 while a phase computes in bf16, and never saved so.

Autocast makes a bf16 copy of every weight that it multiplies by, each time; of what does not train the copy alone is
enough. What a phase leaves holds frozen tensors, and merges adapters into them, as they were where it started: fp32.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from ftlib.training.loops.modes import batch_norms

_PRODUCTS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, Conv1D)
"""Layers whose weights and biases autocast casts, and nothing else reads."""


def hold_frozen_in_bf16(model: nn.Module, *, exact: bool) -> None:
    """Cast what does not train to bf16, in place; a model without memory (torch's meta device) may be given.

    `exact` casts only the weights of linear layers and convolutions, so that every forward pass under bf16 autocast
    has the bits that it had before. Else embeddings and norms too, and what layers hand on becomes bf16, which a GPU
    reads and writes in half the time. Left in fp32: BatchNorm, whose statistics are fp32, and what DoRA takes norms of.
    """
    products = {id(p) for p in _of_products(model)}
    elsewhere = {id(p) for m in model.modules() if type(m) not in _PRODUCTS for p in m.parameters(recurse=False)}
    kept = {id(p) for _, norm in batch_norms(model) for p in norm.parameters()} | {id(p) for p in _under_dora(model)}
    for parameter in model.parameters():
        if parameter.requires_grad or parameter.dtype != torch.float32 or id(parameter) in kept:
            continue
        if not exact or (id(parameter) in products and id(parameter) not in elsewhere):  # a tied one is elsewhere too
            parameter.data = parameter.data.bfloat16()


def _of_products(model: nn.Module) -> Iterator[nn.Parameter]:
    return (p for module in model.modules() if type(module) in _PRODUCTS for p in module.parameters(recurse=False))


def _under_dora(model: nn.Module) -> Iterator[nn.Parameter]:
    for module in model.modules():
        if getattr(module, "lora_magnitude_vector", None):
            yield from module.parameters()
