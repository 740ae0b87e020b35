"""Points of the great circle between the two ends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from ftlib.config import Fraction
from ftlib.merging.candidates import Candidate
from ftlib.merging.interpolation.ends import Score, TwoEnds
from ftlib.merging.methods import Slerp as SlerpKernel
from ftlib.models.checkpoint import Checkpoint


class Slerp(TwoEnds):
    """Spherical interpolation, tensor by tensor (Shoemake 1985). Near-parallel ends give WiSE-FT's line."""

    kind: Literal["slerp"] = "slerp"
    alphas: tuple[Fraction, ...] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    """Points between theta0 (0) and theta1 (1); both ends are always measured, listed or not."""

    def points(
        self, start: Checkpoint, end: Checkpoint, siblings: tuple[Checkpoint, ...], scores: Mapping[str, Score]
    ) -> tuple[Candidate, ...]:
        """Return one candidate per alpha, ascending, both ends among them."""
        del siblings, scores
        return tuple(
            Candidate(name=f"alpha={alpha:g}", start=start, end=end, merge=SlerpKernel(alpha=alpha))
            for alpha in sorted({0.0, *self.alphas, 1.0})
        )

    def count(self) -> int:
        """Return how many candidates there will be."""
        return len({0.0, *self.alphas, 1.0})
