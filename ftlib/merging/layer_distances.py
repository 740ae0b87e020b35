"""How far fine-tuning moved each layer, and how much of a mix survives being stored."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ftlib.config import Config
from ftlib.merging.batch_norm import moved_layers, unmixed
from ftlib.merging.candidates import Candidate
from ftlib.merging.engine import visit
from ftlib.merging.methods import Average, Lerp, Meter
from ftlib.merging.methods.lerp import lerp
from ftlib.merging.plan import Input, PlannedTensor, plan_merge
from ftlib.models.parameter_names import is_embedding, layer_of


class LayerDistance(Config):
    """One group of tensors: a transformer layer, the embeddings or the head."""

    layer: str
    """`embeddings`, `layer 0`, ..., `head`."""
    elements: int
    distance: float
    """||theta1 - theta0||."""
    relative: float
    """The distance over ||theta0||; 0 where theta0 is zero."""
    cosine: float
    """Between theta0 and theta1; fine-tunes of theta0 are above 0.9. 1 where either is zero."""
    moved: float
    """Share of elements that theta1 has changed at all."""
    survives: float
    """Share of those that still differ from theta0 after the mix at `alpha` was rounded to the stored type."""
    displacement: float
    """||round(theta_alpha) - round(theta0)|| over alpha ||theta1 - theta0||: 1 is exact, else it is rounding."""


@dataclass
class _Sums:
    """Running sums of one group, in fp64."""

    elements: int = 0
    start: float = 0.0
    end: float = 0.0
    product: float = 0.0
    delta: float = 0.0
    mixed: float = 0.0
    moved: int = 0
    survived: int = 0


def layer_distances(
    start: Path, end: Path, alpha: float, dtype: torch.dtype = torch.bfloat16
) -> tuple[LayerDistance, ...]:
    """Measure two model folders layer by layer, from the input to the head, streaming; integers do not count.

    `survives` and `displacement` are for weights stored as `dtype`. Raises ModelError if the folders do not fit
    together.
    """
    plan = plan_merge(Lerp(alpha=0.5), [Input(str(start), start), Input(str(end), end)], reference=1)
    groups: dict[str, _Sums] = {}

    def take(planned: PlannedTensor, tensors: Sequence[Tensor]) -> None:
        _add(groups.setdefault(_group(planned.name), _Sums()), tensors[0], tensors[1], alpha, dtype)

    visit(plan, take)
    return tuple(_distance(name, groups[name], alpha) for name in sorted(groups, key=_order))


def apart(start: tuple[str, Path], other: tuple[str, Path]) -> float:
    """Return sum |a - b| / (sum |a| + sum |b|) over the floating tensors of two model folders, streaming.

    Each is given with the name that messages call it. 0 where all are zero. Raises ModelError if the folders do not fit
    together, and have not the same tokens.
    """
    plan = plan_merge(Average(ingredients=(0, 1)), [Input(*start), Input(*other)], reference=0)
    differences, sizes = list[float](), list[float]()

    def take(planned: PlannedTensor, tensors: Sequence[Tensor]) -> None:
        del planned
        a, b = (tensor.double() for tensor in tensors)
        differences.append(float((a - b).abs().sum()))
        sizes.append(float(a.abs().sum() + b.abs().sum()))

    visit(plan, take)
    return math.fsum(differences) / (math.fsum(sizes) or 1.0)


def reach(candidate: Candidate) -> float | None:
    """Return how far a method goes that decides it itself: its distance from theta0 over that of the tuned ones' mean.

    Streaming; 0 where nothing moved, None for other methods. Running statistics that moved are no weights, and take no
    part. Raises ModelError if the checkpoints do not fit together.
    """
    inputs = [Input(part.phase, part.weights_folder) for part in candidate.parts]
    merge, count = candidate.merge, len(inputs)
    if merge is None or merge.scope != "tensor" or merge.pair:
        return None
    meters: dict[str, Meter] = {}

    def take(planned: PlannedTensor, tensors: Sequence[Tensor]) -> None:
        if planned.name not in meters and (made := merge.meter(count)):
            meters[planned.name] = made
        meters[planned.name].add(0, tensors)

    plan = plan_merge(merge, inputs, reference=1)
    visit(unmixed(plan, moved_layers([one.folder for one in inputs])), take)
    reached = [pair for meter in meters.values() if (pair := merge.reach(meter, count)) is not None]
    whole = math.fsum(mean for _, mean in reached)
    return math.sqrt(math.fsum(moved for moved, _ in reached) / (whole or 1.0))


def _add(sums: _Sums, a: Tensor, b: Tensor, alpha: float, dtype: torch.dtype) -> None:
    """Add a chunk of theta0 and theta1 to its group's sums: norms, and what of the mix the stored type keeps."""
    x, y = a.double(), b.double()
    delta = y - x
    stored, mixed = a.to(dtype), torch.empty(len(a), dtype=dtype)
    if a.dtype == dtype:
        lerp(a, b, alpha, mixed)
    else:
        lerp(a.float(), b.float(), alpha, mixed)
    changed, still = delta != 0, mixed != stored
    sums.elements += len(a)
    sums.start += float((x * x).sum())
    sums.end += float((y * y).sum())
    sums.product += float((x * y).sum())
    sums.delta += float((delta * delta).sum())
    sums.mixed += float((mixed.double() - stored.double()).square().sum())
    sums.moved += int(changed.sum())
    sums.survived += int((changed & still).sum())


def _distance(name: str, sums: _Sums, alpha: float) -> LayerDistance:
    scale = math.sqrt(sums.start * sums.end)
    due = alpha * math.sqrt(sums.delta)
    return LayerDistance(
        layer=name,
        elements=sums.elements,
        distance=math.sqrt(sums.delta),
        relative=math.sqrt(sums.delta / sums.start) if sums.start else 0.0,
        cosine=sums.product / scale if scale else 1.0,
        moved=sums.moved / sums.elements if sums.elements else 0.0,
        survives=sums.survived / sums.moved if sums.moved else 1.0,
        displacement=math.sqrt(sums.mixed) / due if due else 1.0,
    )


def _group(name: str) -> str:
    layer = layer_of(name)
    if layer is not None:
        return f"layer {layer}"
    return "embeddings" if is_embedding(name) else "head"


def _order(group: str) -> tuple[int, int]:
    if group.startswith("layer"):
        return (1, int(group.split()[1]))
    return (0 if group == "embeddings" else 2, 0)
