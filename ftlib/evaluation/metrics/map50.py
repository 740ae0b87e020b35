"""Average precision of boxes that overlap by half."""

from __future__ import annotations

from typing import ClassVar, Literal

from ftlib.evaluation.metrics.box_matches import AveragePrecision


class MAP50(AveragePrecision):
    """Average precision of boxes that share at least half of their union with a true one, the mean over labels."""

    kind: Literal["map50"] = "map50"

    overlaps: ClassVar[tuple[float, ...]] = (0.5,)
