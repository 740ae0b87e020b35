"""Words beside points of a plot, where they cover nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

GAPS = (4.0, 10.0, 18.0, 28.0)
"""Between a mark and its words, in points: the nearest that is free is taken."""
DIRECTIONS = 16
_LINKED = 12.0
"""From this gap on a thin line says which mark is meant."""


Stroke = tuple[tuple[float, float], tuple[float, float]]
"""From where to where something thin is drawn."""


@dataclass(frozen=True)
class Mark:
    """A dot or a ring on the plot, perhaps with words that belong to it."""

    x: float
    y: float
    radius: float
    """In points."""
    text: str = ""
    colour: str = ""


def label_apart(axes: Any, marks: Sequence[Mark], strokes: Sequence[Stroke] = ()) -> None:
    """Write the marks' words inside the axes, off every mark and each other, and off strokes where that is possible.

    To be called last: it settles the layout, and what is drawn later is not avoided.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.transforms import Bbox

    canvas = FigureCanvasAgg(axes.figure)
    axes.figure.draw_without_rendering()
    renderer, scale = canvas.get_renderer(), axes.figure.dpi / 72
    circles = [(*axes.transData.transform((mark.x, mark.y)), mark.radius * scale) for mark in marks]
    lines = [axes.transData.transform(stroke) for stroke in strokes]
    placed: list[Any] = []
    for mark, circle in zip(marks, circles, strict=True):
        if not mark.text:
            continue
        measured = axes.text(0, 0, mark.text)
        size = measured.get_window_extent(renderer)
        measured.remove()
        places = _places(circle, size.width, size.height, scale)
        gap, (x, y) = min(
            places,
            key=lambda spot: _cost(
                Bbox.from_bounds(spot[1][0] - size.width / 2, spot[1][1] - size.height / 2, size.width, size.height),
                spot[0],
                axes.bbox,
                circles,
                placed,
                lines,
            ),
        )
        placed.append(Bbox.from_bounds(x - size.width / 2, y - size.height / 2, size.width, size.height))
        axes.annotate(
            mark.text,
            (mark.x, mark.y),
            ((x - circle[0]) / scale, (y - circle[1]) / scale),
            textcoords="offset points",
            ha="center",
            va="center",
            color=mark.colour,
            zorder=5,
            in_layout=False,
            arrowprops={"arrowstyle": "-", "color": mark.colour, "linewidth": 0.6, "alpha": 0.5}
            if gap > _LINKED
            else None,
        )


def _places(
    circle: tuple[float, float, float], width: float, height: float, scale: float
) -> Iterator[tuple[float, tuple[float, float]]]:
    """Yield gap and centre of every place around a mark, upright ones first."""
    x, y, radius = circle
    for gap in GAPS:
        for i in range(DIRECTIONS):
            angle = math.pi / 2 + 2 * math.pi * i / DIRECTIONS
            across, up = math.cos(angle), math.sin(angle)
            away = radius + gap * scale
            yield gap, (x + across * (away + width / 2), y + up * (away + height / 2))


def _cost(
    box: Any,
    gap: float,
    inside: Any,
    circles: Sequence[tuple[float, float, float]],
    placed: Sequence[Any],
    lines: Sequence[Any],
) -> float:
    """Return how bad a place is: covering something is worst, then lying on strokes, then being far away."""
    covered = sum(_reaches(box, circle) for circle in circles) + sum(box.overlaps(other) for other in placed)
    out = not (inside.x0 <= box.x0 and box.x1 <= inside.x1 and inside.y0 <= box.y0 and box.y1 <= inside.y1)
    return 100.0 * (covered + out) + 1.0 * _crossings(box, lines) + gap / 10.0


def _reaches(box: Any, circle: tuple[float, float, float]) -> bool:
    x, y, radius = circle
    nearest = min(max(x, box.x0), box.x1), min(max(y, box.y0), box.y1)
    return math.dist((x, y), nearest) < radius


def _crossings(box: Any, lines: Sequence[Any]) -> int:
    from matplotlib.path import Path as Line

    return sum(Line(line).intersects_bbox(box, filled=False) for line in lines)
