"""The straight line between two checkpoints, walked less far by shallow layers."""

from __future__ import annotations

from typing import ClassVar, Literal

from typing_extensions import override

from ftlib.config import Fraction
from ftlib.merging.methods.kernel import Chunk
from ftlib.merging.methods.lerp import Line


class Lines(Line):
    """theta0 + alpha s (theta1 - theta0), s = g + (1 - g) (l - 1) / (L - 1) for layer l of L (LiNeS, Wang et al. 2025).

    arXiv 2410.17146. g is the `shallow` scale: the first layer's, and that of tensors outside the layers; the last
    layer's is 1.
    """

    paper: ClassVar[str] = "LiNeS (arXiv 2410.17146)"
    least_layers: ClassVar[int] = 2

    kind: Literal["lines"] = "lines"
    alpha: Fraction = 1.0
    shallow: Fraction
    """The first layer's scale, and that of tensors outside the layers; the last layer's is 1, between them linear."""

    @override
    def alpha_at(self, chunk: Chunk) -> float:
        if (layer := chunk.layer) is None:
            return self.alpha * self.shallow
        along = layer / (chunk.layers - 1)
        return self.alpha * ((1.0 - along) * self.shallow + along)  # exactly g and 1 at its ends

    @override
    def whole_copy(self) -> int | None:
        return 0 if self.alpha == 0.0 else 1 if self.alpha == self.shallow == 1.0 else None
