"""COCO's mean average precision."""

from __future__ import annotations

from typing import ClassVar, Literal

from ftlib.evaluation.metrics.box_matches import AveragePrecision


class MAP(AveragePrecision):
    """Average precision of boxes, the mean over labels and over overlaps of 0.50, 0.55, ..., 0.95 (Lin et al. 2014)."""

    kind: Literal["map"] = "map"

    overlaps: ClassVar[tuple[float, ...]] = tuple(round(0.5 + 0.05 * i, 2) for i in range(10))
