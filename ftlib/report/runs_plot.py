"""The Pareto plot over runs: two numbers against each other, and the runs that nothing beats in both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from ftlib.report.content import Figure
from ftlib.report.figures import CHOSEN, TARGET, canvas, plain, saved
from ftlib.report.words_on_plots import Mark, label_apart
from ftlib.tracking.run_facts import RunFacts
from ftlib.tracking.run_words import main_metrics

_AREA = 40.0
_MOST_NAMES = 12
"""Of names on the plot: more would hide each other."""
_MOST_APART = 100
"""Of dots and lines that names keep off: with more there is no free place, and to look for one takes minutes."""
_MOST_DRAWN = 1000
"""Of dots that the page has as shapes; more are small, and one image, or a browser would have to draw them all."""


@dataclass(frozen=True)
class Axis:
    """A number of a run."""

    field: str
    label: str
    higher_is_better: bool

    def better(self, facts: RunFacts) -> float | None:
        """Return the number so that more is better."""
        value = facts.field(self.field)
        return None if not isinstance(value, float) else value if self.higher_is_better else -value


def axes_of(found: Sequence[RunFacts]) -> tuple[Axis, Axis] | None:
    """Return the target's first metric, and that of what was kept, else of what is shifted, else cost, else seconds.

    None where no run was measured.
    """
    metrics = main_metrics(found, most=99)
    if not metrics:
        return None
    roles = {metric: _role(found, metric) for metric in metrics}
    across = metrics[0]
    others = [metric for role in ("retained", "shifted", "target") for metric in metrics[1:] if roles[metric] == role]
    if others:
        return _metric(found, others[0]), _metric(found, across)
    field = "cost" if any(facts.cost for facts in found) else "seconds"
    return Axis(field, field, higher_is_better=False), _metric(found, across)


def _role(found: Sequence[RunFacts], metric: str) -> str:
    evaluation = metric.partition("/")[0]
    return next(facts.evaluations[evaluation].role for facts in found if evaluation in facts.evaluations)


def _metric(found: Sequence[RunFacts], metric: str) -> Axis:
    evaluation, _, name = metric.partition("/")
    asked = next(facts.evaluations[evaluation] for facts in found if evaluation in facts.evaluations)
    higher = next((one.higher_is_better for one in asked.metrics if one.name == name), True)
    return Axis(metric, metric, higher)


def front_of(found: Sequence[RunFacts], axes: tuple[Axis, Axis]) -> list[RunFacts]:
    """Return the runs that no other is at least as good as in both and better in one, along the first axis.

    Runs that lack one of the numbers have no place on it; of equals all are on it.
    """
    placed = [(facts, (axes[0].better(facts), axes[1].better(facts))) for facts in found]
    whole = [(facts, (x, y)) for facts, (x, y) in placed if x is not None and y is not None]
    front: list[tuple[RunFacts, tuple[float, float]]] = []
    best, best_at = -math.inf, -math.inf
    for facts, (x, y) in sorted(whole, key=lambda one: (-one[1][0], -one[1][1])):
        if y > best or (y == best and x == best_at):
            front.append((facts, (x, y)))
            best, best_at = y, x
    return [facts for facts, _ in reversed(front)]


def pareto_figure(
    folder: Path, found: Sequence[RunFacts], axes: tuple[Axis, Axis], front: Sequence[RunFacts]
) -> Figure:
    """Draw every run that has both numbers, the front joined and named."""
    names = {facts.name for facts in front}
    with canvas(7.2, 4.4, 1, 1) as (figure, grid):
        plot = grid[0][0]
        points = [(facts, facts.field(axes[0].field), facts.field(axes[1].field)) for facts in found]
        placed = [(facts.name, x, y) for facts, x, y in points if isinstance(x, float) and isinstance(y, float)]
        others = [*dict.fromkeys((x, y) for name, x, y in placed if name not in names)]
        best = sorted({(x, y) for name, x, y in placed if name in names})
        if others:
            many = len(others) > _MOST_DRAWN
            area, edges = (_AREA / 8, "none") if many else (_AREA, "white")
            dots: Any = {"color": TARGET, "alpha": 0.6, "edgecolors": edges, "rasterized": many}
            plot.scatter(*zip(*others, strict=True), s=area, zorder=2, **dots)
        if best:
            plot.plot(*zip(*best, strict=True), color=CHOSEN, linewidth=1.2, alpha=0.6, zorder=3)
            dots = {"color": CHOSEN, "edgecolors": "white", "rasterized": len(best) > _MOST_DRAWN}
            plot.scatter(*zip(*best, strict=True), s=_AREA * 1.4, zorder=4, **dots)
        plot.margins(0.15)
        plot.set_xlabel(_label(axes[0]))
        plot.set_ylabel(_label(axes[1]))
        radius = math.sqrt(_AREA) / 2 + 1
        named = {facts.name for facts in front[:_MOST_NAMES]}
        apart = placed if len(placed) <= _MOST_APART else [one for one in placed if one[0] in named]
        marks = [Mark(x, y, radius, plain(name) if name in named else "", CHOSEN) for name, x, y in apart]
        label_apart(plot, marks, [*pairwise(best)] if len(best) <= _MOST_APART else [])
        missing = len(found) - len(placed)
        left_out = f" Not drawn: {missing} without both numbers." if missing else ""
        return saved(figure, folder, "runs", f"Each dot is a run; those on the front are joined and named.{left_out}")


def _label(axis: Axis) -> str:
    return plain(axis.label.replace("_", " ")) + ("" if axis.higher_is_better else " (lower is better)")
