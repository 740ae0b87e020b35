"""Draw the scores against what the model answers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ftlib.kinds.outcomes import ScoreOutcomes
from ftlib.report.bins import Bins, bin_means
from ftlib.report.content import Figure, signed
from ftlib.report.figures import INK, colours, panels, plain, saved

BINS = 10
LEAST = 5
"""Rows of a bin at least; with fewer rows there are fewer bins."""
DOTS = 400
"""Rows that are drawn one by one; more are counted in hexagons, or the page would be megabytes and a blot."""


def predictions(folder: Path, tables: Mapping[str, ScoreOutcomes]) -> Figure:
    """Draw the scores against the answers, with the mean score of answers of about the same size.

    The answers lie on the x axis (Piñeiro et al. 2008): the mean answer of equal scores would bend away from the
    diagonal for the best possible model too.
    """
    with panels(len(tables)) as (figure, grid):
        for axes, (name, table), colour in zip(grid, tables.items(), colours(len(tables)), strict=True):
            low, high = _limits(table)
            _rows(axes, table, (low, high), colour)
            axes.plot([low, high], [low, high], color=INK, linewidth=0.9, linestyle=(0, (2, 3)), alpha=0.6, zorder=3)
            bins = means(table)
            axes.errorbar(
                bins.said,
                bins.true,
                yerr=1.96 * bins.error,
                color=INK,
                marker="o",
                markersize=4.5,
                linewidth=1.5,
                elinewidth=1.1,
                zorder=4,
            )
            axes.set_xlim(low, high)
            axes.set_ylim(low, high)
            axes.set_xlabel("answer")
            axes.set_ylabel("score")
            axes.set_title(plain(name), loc="left")
        biases = "; ".join(
            f"{name} {signed(float((table.predicted - table.gold).mean()))}" for name, table in tables.items()
        )
        caption = (
            "Scores against the chosen model's answers on the test rows. The line is the mean score, with its 95 % "
            "interval, of a tenth of the rows each; below the dotted diagonal answers of that size are too high. "
            f"Mean of answer minus score: {biases}."
        )
        return saved(figure, folder, "predictions", caption)


def means(table: ScoreOutcomes) -> Bins:
    """Return the bins of a table, about as many rows in each; equal answers are in one. One row's error is 0."""
    import numpy as np

    count = max(1, min(BINS, len(table) // LEAST))
    borders = np.unique(np.quantile(table.predicted, np.linspace(0, 1, count + 1)[1:-1]))
    _, bins = np.unique(np.searchsorted(borders, table.predicted), return_inverse=True)  # no bin is empty
    held = np.bincount(bins)
    predicted, gold = (bin_means(bins, values, len(held)) for values in (table.predicted, table.gold))
    squares = np.bincount(bins, (table.gold - gold[bins]) ** 2)
    return Bins(predicted, gold, np.sqrt(squares / (held - 1).clip(min=1) / held), held)


def _limits(table: ScoreOutcomes) -> tuple[float, float]:
    """Return one scale for both axes, so that the diagonal is one."""
    low, high = (float(end([end(table.gold), end(table.predicted)])) for end in (min, max))
    margin = 0.04 * (high - low) or 0.5
    return low - margin, high + margin


def _rows(axes: Any, table: ScoreOutcomes, limits: tuple[float, float], colour: str) -> None:
    """Draw dots, or many rows as hexagons: the more rows in it, the less of the page shines through."""
    from matplotlib.colors import LinearSegmentedColormap, to_rgba

    if len(table) <= DOTS:
        axes.scatter(table.predicted, table.gold, s=16, color=colour, alpha=0.45, linewidths=0)
        return
    shades = LinearSegmentedColormap.from_list("rows", [to_rgba(colour, 0.12), to_rgba(colour, 1.0)])
    axes.hexbin(
        table.predicted,
        table.gold,
        gridsize=32,
        extent=(*limits, *limits),
        mincnt=1,
        bins="log",
        cmap=shades,
        linewidths=0.2,
    )
