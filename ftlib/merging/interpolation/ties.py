"""TIES-Merging at several scales."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from typing_extensions import override

from ftlib.merging.interpolation.scales import Scales
from ftlib.merging.methods import Merge
from ftlib.merging.methods import Ties as TiesKernel


class Ties(Scales):
    """TIES-Merging (Yadav et al. 2023, arXiv 2306.01708)."""

    kind: Literal["ties"] = "ties"
    density: float = Field(default=0.2, gt=0.0, le=1.0)
    """Share of each task vector that is kept, the largest by magnitude."""

    @override
    def merge(self, scale: float) -> Merge:
        return TiesKernel(density=self.density, scale=scale)
