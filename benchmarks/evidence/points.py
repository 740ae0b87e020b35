"""What a script returns of one seed of a row: numbers by arm, and points one by one."""

from __future__ import annotations

from ftlib.config import Config


class Point(Config):
    """One model that was measured, as a point of a plane."""

    series: str
    """Which points belong together, as `fine-tuned` or `alpha`."""
    x: float
    y: float
    what: str = ""
    """Which model it is: its settings, in words."""
    beside: dict[str, float] = {}
    """What else was measured of it; the row's `fit` may try it as x."""


class Measured(Config):
    """What a row's `measure` returns."""

    arms: dict[str, dict[str, float]]
    """Metrics by arm, named as the row's comparisons name them."""
    points: tuple[Point, ...] = ()
