"""DARE at several scales."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from typing_extensions import override

from ftlib.merging.interpolation.scales import Scales
from ftlib.merging.methods import Dare as DareKernel
from ftlib.merging.methods import Merge


class Dare(Scales):
    """DARE (Yu et al. 2024, arXiv 2311.03099); the seed makes it the same every time."""

    kind: Literal["dare"] = "dare"
    drop: float = Field(default=0.9, ge=0.0, lt=1.0)
    """Share of each task vector that is dropped; the rest is divided by 1 - drop."""
    seed: int = Field(default=0, ge=0)
    """Of the random draw of what is dropped."""

    @override
    def merge(self, scale: float) -> Merge:
        return DareKernel(drop=self.drop, scale=scale, seed=self.seed)
