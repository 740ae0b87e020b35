"""The great circle between two checkpoints."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from typing_extensions import override

from ftlib.config import Fraction
from ftlib.merging.methods.kernel import Chunk, Kernel, Meter, wide
from ftlib.merging.methods.lerp import lerp
from ftlib.merging.methods.products import Products

if TYPE_CHECKING:
    from torch import Tensor

PARALLEL = 0.9995
"""Above this cosine arc and chord agree to 1e-4 of the distance, and sin(omega) is too small to divide by."""


class Slerp(Kernel):
    """Spherical interpolation, tensor by tensor (Shoemake 1985, doi 10.1145/325334.325242).

    sin((1 - alpha) omega) / sin(omega) theta0 + sin(alpha omega) / sin(omega) theta1, omega the angle between the two
    tensors. Nearly parallel ones, and ones that are zero or opposite, lie on the straight line.
    """

    paper: ClassVar[str] = "spherical interpolation (doi 10.1145/325334.325242)"
    pair: ClassVar[bool] = True
    scope: ClassVar[Literal["element", "tensor", "model"]] = "tensor"

    kind: Literal["slerp"] = "slerp"
    alpha: Fraction

    @override
    def coordinate(self) -> float | None:
        return self.alpha

    @override
    def whole_copy(self) -> int | None:
        return int(self.alpha) if self.alpha in (0.0, 1.0) else None

    @override
    def meter(self, count: int) -> Meter:
        return Products(count, from_first=False)

    @override
    def mix(self, chunk: Chunk, tensors: Sequence[Tensor], meter: Any, out: Tensor) -> None:
        del chunk
        cosine = meter.cosine(0, 1)
        if cosine is None or abs(cosine) > PARALLEL:
            lerp(tensors[0], tensors[1], self.alpha, out)
            return
        omega = math.acos(cosine)
        weights = (math.sin((1.0 - self.alpha) * omega), math.sin(self.alpha * omega))
        mixed = wide(tensors[0]).mul_(weights[0] / math.sin(omega))
        out.copy_(mixed.add_(tensors[1].double(), alpha=weights[1] / math.sin(omega)))
