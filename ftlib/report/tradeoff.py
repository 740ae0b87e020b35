"""Metrics along the line between two models: against each other, and against alpha."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, pairwise
from pathlib import Path
from typing import Any, NamedTuple

from ftlib.report.content import Figure
from ftlib.report.figures import CHOSEN, INK, STYLES, TARGET, canvas, colours, legend_below, plain, saved
from ftlib.report.words_on_plots import Mark, Stroke, label_apart

_DOT, _RING = 42.0, 190.0
"""Areas in square points, as scatter takes them."""


class Point(NamedTuple):
    """A value with its interval."""

    low: float
    value: float
    high: float


@dataclass(frozen=True)
class Line:
    """One evaluation's metric along alpha."""

    evaluation: str
    metric: str
    values: tuple[Point, ...]
    higher_is_better: bool = True
    curve: tuple[tuple[float, Point], ...] = ()
    """What is expected along alpha, where the rule went by that: (alpha, value with interval)."""

    @property
    def label(self) -> str:
        """Return evaluation and metric in words."""
        return f"{self.evaluation} {self.metric}".replace("_", " ")

    @property
    def axis(self) -> str:
        """Return the label of an axis of its own, which says if lower is better."""
        return plain(self.label) + ("" if self.higher_is_better else " (lower is better)")


def alpha_curve(
    folder: Path, alphas: Sequence[float], chosen: int, lines: Sequence[Line], name: str = "alpha_curve"
) -> Figure:
    """Draw the first line against the second along the way from theta0 to theta1, and every line against alpha.

    Lines of one metric share a panel; others have scales of their own.
    """
    metrics = list(dict.fromkeys(line.metric for line in lines))
    both = len(lines) > 1
    with canvas(9.6 if both else 6.4, max(4.0, 2.3 * len(metrics)), len(metrics), 1 + both) as (figure, grid):
        hues = dict(zip(lines, colours(len(lines)), strict=True))
        for axes, metric in zip(grid[:, -1], metrics, strict=True):
            _by_alpha(axes, alphas, chosen, {line: hue for line, hue in hues.items() if line.metric == metric})
        grid[0, -1].set_title("by α", loc="left")
        grid[-1, -1].set_xlabel("α")
        if both:
            for axes in grid[:, 0]:
                axes.remove()
            tradeoff_panel(figure.add_subplot(grid[0, -1].get_gridspec()[:, 0]), alphas, chosen, lines[0], lines[1])
        words = "the line from its beginning (alpha 0) to the end of the last phase (alpha 1)"
        caption = (
            f"Left: {lines[1].label} against {lines[0].label} along {words}. Right: "
            f"{', '.join(line.label for line in lines) if len(lines) > 2 else 'the same'} by alpha. "
            if both
            else f"{lines[0].label} by alpha, along {words}. "
        )
        return saved(figure, folder, name, caption + _bands(lines))


def _bands(lines: Sequence[Line]) -> str:
    words = "Bars and bands are confidence intervals, on the validation rows."
    if not any(line.curve for line in lines):
        return words
    return f"{words} Open marks are measured; the line with its band is what is expected, by which the rule chose."


def tradeoff_panel(axes: Any, alphas: Sequence[float], chosen: int, across: Line, up: Line) -> None:
    """Draw one line's values against another's, with the ends and the chosen point named."""
    x, y = [e.value for e in across.values], [e.value for e in up.values]
    x_error, y_error = _errors(across), _errors(up)
    axes.errorbar(x, y, xerr=x_error, yerr=y_error, fmt="none", ecolor=INK, elinewidth=0.8, alpha=0.16, zorder=1)
    axes.plot(x, y, color=TARGET, linewidth=1.4, alpha=0.55, zorder=2)
    axes.scatter(
        x, y, c=list(alphas), cmap="viridis", vmin=0, vmax=1, s=_DOT, edgecolors="white", linewidths=0.8, zorder=3
    )
    axes.scatter([x[chosen]], [y[chosen]], s=_RING, facecolors="none", edgecolors=CHOSEN, linewidths=2.0, zorder=4)
    axes.margins(0.12)  # room for the words
    axes.set_xlabel(across.axis)
    axes.set_ylabel(up.axis)
    axes.set_title("the trade-off", loc="left")
    label_apart(axes, _marks(x, y, alphas, chosen), [*pairwise(zip(x, y, strict=True)), *_bars(across, up)])


def _errors(line: Line) -> list[list[float]]:
    # A bootstrap percentile may lie on the other side of the value; a bar cannot be drawn backwards.
    return [[max(0.0, e.value - e.low) for e in line.values], [max(0.0, e.high - e.value) for e in line.values]]


def _bars(across: Line, up: Line) -> Iterator[Stroke]:
    for a, b in zip(across.values, up.values, strict=True):
        yield (a.low, b.value), (a.high, b.value)
        yield (a.value, b.low), (a.value, b.high)


def _marks(x: Sequence[float], y: Sequence[float], alphas: Sequence[float], chosen: int) -> list[Mark]:
    """Return every point; the ends and the chosen one have words, and that one's come first."""
    marks = {i: Mark(x[i], y[i], math.sqrt(_DOT) / 2 + 0.5) for i in range(len(alphas))}
    for i in {0, len(alphas) - 1}:
        marks[i] = Mark(x[i], y[i], marks[i].radius, f"α = {alphas[i]:g}", INK)
    ring = Mark(x[chosen], y[chosen], math.sqrt(_RING) / 2 + 1.0, f"α = {alphas[chosen]:g} · chosen", CHOSEN)
    return [ring, *(mark for i, mark in marks.items() if i != chosen)]


def _by_alpha(axes: Any, alphas: Sequence[float], chosen: int, lines: dict[Line, str]) -> None:
    """Draw lines of one metric: measured and joined, or as open marks beside the curve that the rule went by."""
    for (line, colour), style in zip(lines.items(), cycle(STYLES), strict=False):
        along = line.curve or tuple(zip(alphas, line.values, strict=True))
        at, low, high = zip(*((alpha, point.low, point.high) for alpha, point in along), strict=True)
        axes.fill_between(at, low, high, color=colour, alpha=0.14, linewidth=0)
        values, label = [point.value for point in line.values], plain(line.label)
        drawn = {"markersize": 4.2, "label": f"{label}, measured" if line.curve else label, **style}
        if line.curve:
            axes.plot(
                at, [point.value for _, point in line.curve], color=colour, linewidth=1.8, label=f"{label}, expected"
            )
            drawn |= {"linestyle": "none", "markerfacecolor": "white"}
        axes.plot(alphas, values, color=colour, linewidth=1.8, **drawn)
    axes.axvline(
        alphas[chosen], color=CHOSEN, linewidth=1.2, linestyle=(0, (4, 3)), label=f"chosen, α = {alphas[chosen]:g}"
    )
    legend_below(axes)
