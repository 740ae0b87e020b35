"""Loss curves of trainings that go on, as one small SVG: drawn by hand, in milliseconds, beside steps that compute.

The report's own curves are matplotlib's; importing that and drawing with it would take a second from a training whose
process draws. The ink is a grey that reads on white and on black: an image in a page does not know the page's theme.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from ftlib.report.figures import CHOSEN, TARGET, running_mean

Points = Sequence[tuple[float, float]]

_INK = "#7a8394"
_WIDTH, _HEIGHT = 760, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 16, 34, 30
_MOST_POINTS = 300
"""Of a line; each stands for as many steps as it takes."""
_MOST_TRAININGS = 4
_MOST_DOTS = 40
_TICKS = 4


@dataclass(frozen=True)
class LossCurve:
    """One training so far."""

    name: str
    loss: Points
    """(step, training loss)."""
    validation: Points
    """(step, validation loss)."""
    total: int = 0
    """Steps that it will take; 0 where that is not known."""


def loss_curves(curves: Sequence[LossCurve]) -> str:
    """Return an SVG with a panel for each of the last trainings; empty where none has a point."""
    shown = [curve for curve in curves if _finite(curve.loss) or _finite(curve.validation)][-_MOST_TRAININGS:]
    if not shown:
        return ""
    height = _HEIGHT * len(shown)
    parts = [part for i, curve in enumerate(shown) for part in _panel(curve, i * _HEIGHT)]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
        f'font-family="ui-sans-serif, system-ui, Helvetica, Arial, sans-serif" font-size="12" fill="{_INK}">'
        + "".join(parts)
        + "</svg>"
    )


def _panel(curve: LossCurve, top: float) -> Iterator[str]:
    """Yield the elements of a training's panel: frame, numbers, losses as measured, their running mean, validation."""
    loss, validation = _finite(curve.loss), _finite(curve.validation)
    smooth = list(zip([x for x, _ in loss], running_mean([y for _, y in loss]), strict=True))
    seen = [*loss, *validation]
    newest = max(x for x, _ in seen)
    last = max(curve.total, newest, 1)
    # The page's numbers are brought up to date more often: without the step, a peak that is past contradicts them.
    until = f" to step {newest:,.0f}" if newest < curve.total else ""
    low, high = _range([y for _, y in [*_thinned(loss), *validation]])
    x0, x1, y0, y1 = _LEFT, _WIDTH - _RIGHT, top + _HEIGHT - _BOTTOM, top + _TOP

    def at(point: tuple[float, float]) -> tuple[float, float]:
        x, y = point
        return x0 + (x1 - x0) * x / last, y0 + (y1 - y0) * (min(max(y, low), high) - low) / (high - low)

    yield f'<text x="{x0}" y="{top + 18}" font-weight="600">{escape(curve.name)} · loss{until}</text>'
    yield from _legend(x1, top + 18, [("training", TARGET), *([("validation", CHOSEN)] if validation else [])])
    for value in _ticks(low, high):
        y = at((0, value))[1]
        yield f'<path d="M{x0} {y:.1f}H{x1}" stroke="{_INK}" stroke-opacity=".22"/>'
        yield f'<text x="{x0 - 8}" y="{y + 4:.1f}" text-anchor="end">{value:.4g}</text>'
    for value in _ticks(0, last)[1:]:
        x = at((value, low))[0]
        yield f'<text x="{x:.1f}" y="{y0 + 18}" text-anchor="middle">{value:,.0f}</text>'
    yield f'<text x="{x0 - 8}" y="{y0 + 18}" text-anchor="end">step</text>'
    yield _line([at(p) for p in _thinned(loss)], TARGET, 1.0, 0.35)
    yield _line([at(p) for p in _thinned(smooth)], TARGET, 2.2, 1.0)
    yield _line([at(p) for p in _thinned(validation)], CHOSEN, 1.6, 1.0)
    for x, y in map(at, validation if len(validation) <= _MOST_DOTS else ()):
        yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.4" fill="{CHOSEN}"/>'


def _legend(right: float, y: float, entries: Sequence[tuple[str, str]]) -> Iterator[str]:
    x = right - sum(34 + 7 * len(name) for name, _ in entries)
    for name, colour in entries:
        yield f'<path d="M{x} {y - 4}h16" stroke="{colour}" stroke-width="2.5"/>'
        yield f'<text x="{x + 22}" y="{y}">{name}</text>'
        x += 34 + 7 * len(name)


def _line(points: Sequence[tuple[float, float]], colour: str, width: float, opacity: float) -> str:
    if len(points) < 2:
        return ""
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return (
        f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="{width}" stroke-opacity="{opacity}" '
        'stroke-linejoin="round"/>'
    )


def _finite(points: Points) -> list[tuple[float, float]]:
    return [(x, y) for x, y in points if math.isfinite(y)]


def _thinned(points: Points) -> list[tuple[float, float]]:
    """Return at most `_MOST_POINTS`, the last among them."""
    every = -(-len(points) // _MOST_POINTS) or 1
    kept = list(points[::-1][::every])
    return kept[::-1]


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    pad = (high - low) * 0.05 or abs(high) * 0.1 or 1.0
    return low - pad, high + pad


def _ticks(low: float, high: float) -> list[float]:
    """Return round numbers between two, about `_TICKS` of them."""
    rough = (high - low) / _TICKS
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * times for times in (1, 2, 2.5, 5, 10) if unit * times >= rough)
    first = math.ceil(low / step)
    return [n * step for n in range(first, math.floor(high / step) + 1)]
