"""Inner products of whole tensors, summed block by block so that no chunk size changes them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from typing_extensions import override

from ftlib.merging.methods.kernel import BLOCK, Meter

if TYPE_CHECKING:
    from torch import Tensor


class Products(Meter):
    """The Gram matrix of `count` vectors in fp64: the inputs, or their differences from the first."""

    def __init__(self, count: int, *, from_first: bool) -> None:
        self.from_first = from_first
        self.gram = [[0.0] * count for _ in range(count)]

    @override
    def add(self, turn: int, tensors: Sequence[Tensor]) -> None:
        del turn
        for first in range(0, len(tensors[0]), BLOCK):
            wide = [tensor[first : first + BLOCK].double() for tensor in tensors]
            if self.from_first:
                wide = [vector - wide[0] for vector in wide[1:]]
            for i, left in enumerate(wide):
                for j, right in enumerate(wide[: i + 1]):
                    self.gram[i][j] += float((left * right).sum())

    def inner(self, i: int, j: int) -> float:
        """Return the inner product of two vectors."""
        return self.gram[max(i, j)][min(i, j)]

    def cosine(self, i: int, j: int) -> float | None:
        """Return the cosine of two vectors; None if one of them is zero."""
        i, j = max(i, j), min(i, j)
        scale = math.sqrt(self.gram[i][i]) * math.sqrt(self.gram[j][j])
        return max(-1.0, min(1.0, self.gram[i][j] / scale)) if scale else None
