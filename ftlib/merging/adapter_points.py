"""Sums of checkpoints whose ends are adapters, as adapters over the same base: no merged weights are made.

What is mixed is what each adapter makes of the base, never its matrices: the mean of B_i A_i is not the mean of the B_i
times the mean of the A_i. With shares w_i that sum to 1,

    sum_i w_i (W0 + s_i B_i A_i) = W0 + sum_i (w_i s_i B_i) A_i

which is exactly one adapter whose rank is the sum of theirs: the A_i below each other, the w_i s_i B_i side by side. A
dense theta0 is the base itself, with w_0 and no matrices. What adapters hold whole, heads and biases, is mixed as the
method mixes tensors, and so are (IA)3's factors, which are 1 in the base. One adapter over a dense theta0 keeps its
rank, and is scaled (`ftlib.merging.adapters`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from math import sqrt
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ftlib.errors import ModelError
from ftlib.kinds.writing import copy_beside
from ftlib.merging.adapters import (
    adapter_tensors,
    chunk_of,
    immovable,
    module_of,
    number_of,
    plain_name,
    whole_ends,
    write_scaled,
)
from ftlib.merging.candidates import Candidate
from ftlib.merging.plan import check_layers
from ftlib.models.adapter import WEIGHTS, read_adapter, write_adapter_config, write_base
from ftlib.models.checkpoint import Base, Checkpoint
from ftlib.models.parameter_names import layers_in
from ftlib.models.saved_names import spans_in_memory
from ftlib.models.tensor_files import TensorSpan


def check_point(candidate: Candidate) -> None:
    """Check that a candidate whose end is an adapter is an adapter too. Raises ModelError, naming what is not."""
    merge, start, end, parts = candidate.merge, candidate.start, candidate.end, candidate.parts
    if merge is None or merge.whole_copy() is not None:
        return
    if not merge.adds_up:
        raise ModelError(
            f"{end.phase!r} is an adapter, and adapters are added up, which {merge.kind!r} does not do; use wise_ft, "
            "lines, blocks, soup or task_arithmetic, or train with tuning.keep: merged"
        )
    if merge.least_layers and end.base:
        layers = layers_in(spans_in_memory(end.base.folder))
        check_layers(merge.kind, merge.least_layers, layers, end.base.name)
    for one in parts:
        if one.form == "dense" and one.weights != start.weights:
            raise ModelError(
                f"{one.phase!r} holds dense weights and {end.phase!r} is an adapter: they are not added up without "
                "merging; give one that was trained with keep: adapter"
            )
        if one.form == "adapter" and (why := immovable(read_adapter(one.folder))):
            raise ModelError(f"{one.phase!r} is an adapter that cannot be scaled ({', '.join(why)}); interpolate: off")
        # Of a dense theta0 each has it as its parent, whatever it calls what is below: the head below counts nothing.
        if start.base and one.base and start.base.weights != one.base.weights:
            raise ModelError(
                f"{start.phase!r} and {one.phase!r} are adapters over different models; start from one base"
            )


def write_point(candidate: Candidate, out: Path, base: Base) -> None:
    """Write a candidate whose end is an adapter as an adapter's folder over `base`, with config and tokenizer.

    At alpha 0 over dense weights it is the adapter scaled to nothing, with the start's head. Raises what
    `check_point` and `write_scaled` raise.
    """
    check_point(candidate)
    merge, parts = candidate.merge, candidate.parts
    source = 0 if merge is None else merge.whole_copy()
    if merge and merge.scales_adapter and candidate.start.form == "dense":
        write_scaled(candidate.end.folder, candidate.start.weights_folder, merge, out)
    elif source is not None:
        copied = parts[source]
        assert copied.base
        write_scaled(copied.folder, copied.base.folder, None, out)
    else:
        _write_sum(candidate, out, spans_in_memory(base.folder))
    write_adapter_config(out, {**read_adapter(out), "base_model_name_or_path": base.name, "revision": None})
    write_base(out, base)
    copy_beside(candidate.end.folder, out)


def _write_sum(candidate: Candidate, out: Path, spans: Mapping[str, TensorSpan]) -> None:
    """Write what a merge makes of adapters, and of a dense theta0 where it takes part, as one adapter."""
    merge, parts, layers = candidate.merge, candidate.parts, layers_in(spans)
    assert merge
    read = [_read(part, candidate.end) for part in parts]
    adapters = [i for i, part in enumerate(parts) if part.form == "adapter"]
    first = read[adapters[0]]
    for i in adapters[1:]:
        odd = sorted(first.keys() ^ read[i].keys())
        odd += [name for name in first if not odd and ".lora_" not in name and first[name].shape != read[i][name].shape]
        if odd:
            raise ModelError(
                f"{parts[adapters[0]].phase!r} and {parts[i].phase!r} are adapters of different modules, among them "
                f"{odd[0]}; start from the base, or use interpolation: off"
            )
    configs = {i: read_adapter(parts[i].folder) for i in adapters}
    made: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    for name, like in first.items():
        if ".lora_A." in name or name.endswith(".lora_embedding_A"):
            made[name] = torch.cat([read[i][name].to(like.dtype) for i in adapters])
        elif ".lora_B." in name or name.endswith(".lora_embedding_B"):
            module = module_of(name)
            shares = merge.shares(len(parts), chunk_of(name, spans, layers))
            scaled = [scaling_of(configs[i], module) * shares[i] * read[i][name].to(like.dtype) for i in adapters]
            made[name] = torch.cat(scaled, dim=1)
            ranks[module] = made[name].shape[1]
        else:
            flat = [tensors[name].to(like.dtype).flatten() for tensors in read]
            mixed = torch.empty_like(flat[0])
            merge.mix(chunk_of(name, spans, layers), flat, None, mixed)
            made[name] = mixed.view(like.shape)
    out.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in made.items()}, out / WEIGHTS, metadata={"format": "pt"})
    like_end = read_adapter(candidate.end.folder)
    write_adapter_config(out, {**like_end, **(_unscaled(ranks, configs.values()) if ranks else {})})


def _unscaled(ranks: Mapping[str, int], configs: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Return what says that every module's matrices count once, whatever their ranks."""
    rank = sum(config["r"] for config in configs)
    others = {re.escape(module): other for module, other in ranks.items() if other != rank}
    alphas = {module: float(other) for module, other in others.items()}
    return {
        **{"r": rank, "lora_alpha": float(rank), "use_rslora": False},
        **{"rank_pattern": others, "alpha_pattern": alphas},
    }


def _read(part: Checkpoint, end: Checkpoint) -> dict[str, Tensor]:
    """Read an adapter's tensors; of a dense theta0 those that the end holds whole, by the names they have there."""
    if part.form == "adapter":
        return adapter_tensors(part.folder)
    whole = whole_ends(end.folder, part.weights_folder)
    return {name: whole[plain_name(name)][0] for name in adapter_tensors(end.folder) if plain_name(name) in whole}


def scaling_of(config: dict[str, Any], module: str) -> float:
    """Return what peft multiplies a module's B A with."""
    rank, alpha = number_of(config, "r", module), number_of(config, "lora_alpha", module)
    return alpha / (sqrt(rank) if config.get("use_rslora") else rank)
