"""TIES-Merging: task vectors are trimmed, a sign is elected, and the values that have it are averaged."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from ftlib.merging.methods.kernel import Chunk, Meter, wide
from ftlib.merging.methods.task_vector import TaskVectorKernel

if TYPE_CHECKING:
    from torch import Tensor

_LOW_BITS = 15  # of a float's 31 without the sign: 65,536 bins on the first pass, 32,768 on the second


class Ties(TaskVectorKernel):
    """theta0 + scale * tau, tau from TIES-Merging (Yadav et al. 2023, arXiv 2306.01708).

    Trim: of each task vector over all tensors, the `density` largest by magnitude stay (all that equal the smallest of
    them too), the others are 0. Elect: the sign of the sum, element by element. Merge: the mean of the values that
    have this sign.
    """

    paper: ClassVar[str] = "TIES-Merging (arXiv 2306.01708)"
    scope: ClassVar[Literal["element", "tensor", "model"]] = "model"

    kind: Literal["ties"] = "ties"
    density: float = Field(default=0.2, gt=0.0, le=1.0)
    scale: float = 1.0

    @override
    def meter(self, count: int) -> Meter:
        return Thresholds(count - 1, self.density)

    @override
    def mix(self, chunk: Chunk, tensors: Sequence[Tensor], meter: Any, out: Tensor) -> None:
        import torch

        del chunk
        start = wide(tensors[0])
        # theta0 - theta_i: subtracting its +0.0 keeps -0.0 where nothing moved; adding would lose it
        trimmed = torch.stack([start - tensor for tensor in tensors[1:]])
        keep = torch.tensor(meter.thresholds, dtype=torch.float32)[:, None]
        trimmed[trimmed.float().abs() < keep] = 0.0
        elected = trimmed.sum(dim=0).sign()
        trimmed[trimmed.sign() != elected] = 0.0
        voters = (trimmed != 0.0).sum(dim=0).clamp_(min=1)
        out.copy_(start.sub_(trimmed.sum(dim=0).div_(voters), alpha=self.scale))


class Thresholds(Meter):
    """The magnitude above which each task vector keeps `density` of its elements, exact, without sorting or holding it.

    A positive float's bits are in the order of its value: one histogram of the high bits finds the bin, a second of
    the low bits within it finds the value. Magnitudes count as fp32.
    """

    passes = 2

    def __init__(self, count: int, density: float) -> None:
        self.density = density
        self.thresholds = [0.0] * count
        self._high = [0] * count
        self._wanted = [0] * count
        self._histograms: list[Tensor | None] = [None] * count

    @override
    def add(self, turn: int, tensors: Sequence[Tensor]) -> None:
        import torch

        start = tensors[0].double()
        for i, tensor in enumerate(tensors[1:]):
            bits = (tensor.double() - start).float().abs().view(torch.int32)
            if turn == 0:
                histogram = torch.bincount(bits >> _LOW_BITS, minlength=1 << (31 - _LOW_BITS))
            else:
                inside = bits[bits >> _LOW_BITS == self._high[i]]
                histogram = torch.bincount(inside & ((1 << _LOW_BITS) - 1), minlength=1 << _LOW_BITS)
            before = self._histograms[i]
            self._histograms[i] = histogram if before is None else before.add_(histogram)

    @override
    def close(self, turn: int) -> None:
        import torch

        for i, histogram in enumerate(self._histograms):
            if histogram is None:  # no floating tensor at all
                continue
            if turn == 0:
                self._wanted[i] = max(1, math.ceil(self.density * int(histogram.sum())))
            at, above = _bin_of(histogram, self._wanted[i])
            if turn == 0:
                self._high[i] = at
                self._wanted[i] -= above
            else:
                bits = torch.tensor([self._high[i] << _LOW_BITS | at], dtype=torch.int32)
                self.thresholds[i] = float(bits.view(torch.float32))
            self._histograms[i] = None


def _bin_of(histogram: Tensor, rank: int) -> tuple[int, int]:
    """Return the bin that holds the `rank`-th element from the top, and how many lie in the bins above it."""
    from_top = histogram.flip(0).cumsum(0)
    position = int((from_top < rank).sum())
    above = int(from_top[position - 1]) if position else 0
    return len(histogram) - 1 - position, above
