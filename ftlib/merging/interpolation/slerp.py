"""Points of the great circle between the two ends."""

from __future__ import annotations

from typing import Literal

from typing_extensions import override

from ftlib.config import Fraction
from ftlib.merging.candidates import Candidate
from ftlib.merging.interpolation.ends import Ends, TwoEnds
from ftlib.merging.methods import Slerp as SlerpKernel


class Slerp(TwoEnds):
    """Spherical interpolation, tensor by tensor (Shoemake 1985). Near-parallel ends give WiSE-FT's line."""

    kind: Literal["slerp"] = "slerp"
    alphas: tuple[Fraction, ...] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    """Points between theta0 (0) and theta1 (1); both ends are always measured, listed or not."""

    @property
    @override
    def is_path(self) -> bool:
        return True

    @property
    @override
    def places(self) -> tuple[float, ...]:
        return tuple(sorted({0.0, *self.alphas, 1.0}))

    @override
    def points(self, ends: Ends) -> tuple[Candidate, ...]:
        """Return one candidate per alpha, ascending, both ends among them."""
        return tuple(
            Candidate(name=f"alpha={alpha:g}", start=ends.start, end=ends.end, merge=SlerpKernel(alpha=alpha))
            for alpha in self.places
        )

    @override
    def count(self) -> int:
        return len(self.places)
