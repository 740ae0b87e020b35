"""TIES-Merging at several scales."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from ftlib.merging.interpolation.scales import Scales
from ftlib.merging.methods import Merge
from ftlib.merging.methods import Ties as TiesKernel


class Ties(Scales):
    """TIES-Merging (Yadav et al. 2023, arXiv 2306.01708)."""

    on_language_models: ClassVar[str] = (
        "of TIES merges of language models 31 % (two fine-tunes), 12 % (four) and 0 % (twelve) were better than their "
        "base, by -0.63, -1.74 and -4.32 on average; plain averages came to 49 %, 88 % and 100 %, by -0.02, +0.50 and "
        "+1.02 (arXiv 2511.21437: 12 fine-tunes of each of 4 bases, 16 benchmarks); use soup"
    )

    kind: Literal["ties"] = "ties"
    density: float = Field(default=0.2, gt=0.0, le=1.0)
    """Share of each task vector that is kept, the largest by magnitude."""

    @override
    def merge(self, scale: float) -> Merge:
        return TiesKernel(density=self.density, scale=scale)
