"""Points between a start and an adapter's end, as adapters over the same base: no merged weights are made.

Where theta0 is the base itself the adapter is scaled (`ftlib.merging.adapters`). Where theta0 is an adapter too, both
updates count at once: (1 - alpha) s0 B0 A0 + alpha s1 B1 A1 is one adapter of the sum of their ranks.
"""

from __future__ import annotations

from math import sqrt
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from ftlib.errors import ModelError
from ftlib.kinds.loading import copy_beside
from ftlib.merging.adapters import adapter_tensors, immovable, write_scaled
from ftlib.merging.candidates import Candidate
from ftlib.merging.methods.lerp import lerp
from ftlib.models.adapter import WEIGHTS, read_adapter, write_adapter_config, write_base
from ftlib.models.checkpoint import Base, Checkpoint


def check_point(candidate: Candidate) -> None:
    """Check that a candidate whose end is an adapter is an adapter too. Raises ModelError, naming what is not."""
    merge, start, end = candidate.merge, candidate.start, candidate.end
    if merge is None or merge.whole_copy() is not None:
        return
    if merge.scaling() is None:
        raise ModelError(
            f"{end.phase!r} is an adapter, and adapters are moved along the straight line alone, got {merge.kind!r}; "
            "use wise_ft without modules and depth, or train with tuning.keep: merged"
        )
    for side in (start, end):
        if side.form == "adapter" and (why := immovable(read_adapter(side.folder))):
            raise ModelError(f"{side.phase!r} is an adapter that cannot be scaled ({', '.join(why)}); interpolate: off")
    if start.base and end.base and start.base.weights != end.base.weights:
        raise ModelError(f"{start.phase!r} and {end.phase!r} are adapters over different models; start from one base")


def write_point(candidate: Candidate, out: Path, base: Base) -> None:
    """Write a candidate whose end is an adapter as an adapter's folder over `base`, with config and tokenizer.

    At alpha 0 over dense weights it is the adapter scaled to nothing, with the start's head. Raises what
    `check_point` and `write_scaled` raise.
    """
    check_point(candidate)
    start, end, alpha = candidate.start, candidate.end, _alpha(candidate)
    if start.form == "adapter" and 0.0 < alpha < 1.0:
        _write_between(start, end, alpha, out)
    elif start.form == "adapter":
        source = end if alpha == 1.0 else start
        assert source.base
        write_scaled(source.folder, Path(source.base.uri), 1.0, out)
    else:
        write_scaled(end.folder, start.weights_folder, alpha, out)
    write_adapter_config(out, {**read_adapter(out), "base_model_name_or_path": base.name, "revision": None})
    write_base(out, base)
    copy_beside(end.folder, out)


def _alpha(candidate: Candidate) -> float:
    return 1.0 if candidate.alpha is None else candidate.alpha


def _write_between(start: Checkpoint, end: Checkpoint, alpha: float, out: Path) -> None:
    """Write the point between two adapters of one base as one adapter, whose rank is the sum of both."""
    shares = (start, 1.0 - alpha), (end, alpha)
    configs = [read_adapter(side.folder) for side, _ in shares]
    tensors = [adapter_tensors(side.folder) for side, _ in shares]
    if odd := sorted(tensors[0].keys() ^ tensors[1].keys()) or [n for n in tensors[0] if ".lora_embedding_" in n]:
        raise ModelError(
            f"{start.phase!r} and {end.phase!r} are adapters of different modules, among them {odd[0]}; start from "
            "the base, or use interpolation: off"
        )
    between: dict[str, torch.Tensor] = {}
    for name, theirs in tensors[0].items():
        pair = theirs, tensors[1][name].to(theirs.dtype)
        if ".lora_A." in name:
            between[name] = torch.cat(pair)
        elif ".lora_B." in name:
            scaled = [_scaling(c) * share * b for c, (_, share), b in zip(configs, shares, pair, strict=True)]
            between[name] = torch.cat(scaled, dim=1)
        else:
            lerp(*pair, alpha, mixed := torch.empty_like(theirs))
            between[name] = mixed
    rank = sum(config["r"] for config in configs)
    out.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in between.items()}, out / WEIGHTS, metadata={"format": "pt"})
    write_adapter_config(out, {**configs[1], "r": rank, "lora_alpha": float(rank), "use_rslora": False})


def _scaling(config: dict[str, Any]) -> float:
    if config.get("rank_pattern") or config.get("alpha_pattern"):
        raise ModelError("an adapter with a rank or alpha of its own for some modules is not mixed with another one")
    return config["lora_alpha"] / (sqrt(config["r"]) if config.get("use_rslora") else config["r"])
