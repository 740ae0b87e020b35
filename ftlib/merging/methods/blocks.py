"""The straight line between two checkpoints, with an alpha of its own for each third of the layers."""

from __future__ import annotations

from typing import ClassVar, Literal

from typing_extensions import override

from ftlib.config import Fraction
from ftlib.merging.methods.kernel import Chunk
from ftlib.merging.methods.lerp import Line
from ftlib.models.parameter_names import is_embedding

BLOCKS = 3
"""Parts of the depth: with more, the paper's alphas fit the rows that they are chosen by."""


class Blocks(Line):
    """(1 - a_k) theta0 + a_k theta1 in block k of three (HMA, Lin et al. 2024, arXiv 2309.06256).

    The layers are cut into thirds, the first ones longer where they do not divide; embeddings belong to the first
    block, what follows the last layer to the last.
    """

    paper: ClassVar[str] = "heterogeneous model averaging (arXiv 2309.06256)"
    least_layers: ClassVar[int] = BLOCKS

    kind: Literal["blocks"] = "blocks"
    alphas: tuple[Fraction, Fraction, Fraction]
    """Of the first, the middle and the last third of the layers."""

    @override
    def alpha_at(self, chunk: Chunk) -> float:
        return self.alphas[block_of(chunk)]

    @override
    def whole_copy(self) -> int | None:
        return int(self.alphas[0]) if self.alphas in ((0.0,) * BLOCKS, (1.0,) * BLOCKS) else None


def block_of(chunk: Chunk) -> int:
    """Return which third of the depth a tensor lies in."""
    if (layer := chunk.layer) is None:
        return 0 if is_embedding(chunk.name) else BLOCKS - 1
    return BLOCKS * layer // chunk.layers
