"""What tensors are called in a model's files: transformers renamed some families in memory, and not their files.

A ViT's `vit.layers.0.attention.q_proj.weight` is saved as `vit.encoder.layer.0.attention.attention.query.weight`.
Adapters, and what a recipe freezes, name modules in memory; merges read and write files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from ftlib.models.folder import tensor_spans
from ftlib.models.limits import load_config
from ftlib.models.quiet import quiet
from ftlib.models.tensor_files import TensorSpan


def never_saved(model: nn.Module) -> frozenset[str]:
    """Return the names of tables that transformers computes and writes to no file, as Marian's sines of positions."""
    return frozenset(getattr(model, "_keys_to_ignore_on_save", None) or ())


def saved_names(model: nn.Module) -> dict[str, str]:
    """Return what each tensor of a model is called in its files, by its name in memory.

    What is not saved as the one tensor that it is, as a family's fused experts, is left out; so is what no file has.
    """
    from transformers.core_model_loading import revert_weight_conversion

    computed = never_saved(model)
    state = {name: tensor for name, tensor in model.state_dict().items() if name not in computed}
    names = {id(tensor): name for name, tensor in state.items()}
    saved = revert_weight_conversion(cast(Any, model), state)
    return {names[id(tensor)]: name for name, tensor in saved.items() if id(tensor) in names}


def spans_in_memory(folder: Path) -> dict[str, TensorSpan]:
    """Return a folder's tensors by their names in memory, and by those in its files. Raises what `tensor_spans` raises.

    A class that transformers does not have names nothing else.
    """
    import transformers

    spans = tensor_spans(folder)
    config = load_config(folder)
    loader: Any = getattr(transformers, (config.architectures or [""])[0] or "-", None)
    if loader is None:
        return spans
    with quiet(), torch.device("meta"):
        names = saved_names(loader(config))
    return {**{name: spans[saved] for name, saved in names.items() if saved in spans}, **spans}
