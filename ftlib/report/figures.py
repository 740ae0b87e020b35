"""The plots, each as an SVG that takes the page's colours and as a PNG on white."""

from __future__ import annotations

import io
import re
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftlib.report.content import Figure

TARGET, SHIFTED, CHOSEN = "#3b82f6", "#f0742b", "#c026d3"
PALETTE = (TARGET, SHIFTED, "#0f9d76", "#8b5cf6", "#d4a017")
STYLES: tuple[dict[str, Any], ...] = (
    {"marker": "o"},
    {"marker": "s", "linestyle": (0, (5, 3))},
    {"marker": "^", "linestyle": (0, (2, 2))},
)
"""Where lines nearly coincide, the lower ones show through the gaps."""
_BELOW = 36.0
"""Points from the axes' foot to the words below it, past the numbers and the axis's name."""
_ABREAST = 45
"""Letters of names that fit beside each other below half a figure."""
INK = "#1f2430"  # becomes `currentColor` in the SVG, so that axes and words follow the page into the dark
_FONT = "ui-sans-serif, system-ui, 'Segoe UI', Helvetica, Arial, sans-serif"


@dataclass(frozen=True)
class Curve:
    """One phase's records: (step, value) pairs."""

    phase: str
    loss: Sequence[tuple[float, float]]
    validation: Sequence[tuple[float, float]]
    rate: Sequence[tuple[float, float]]


def training_curves(folder: Path, curves: Sequence[Curve]) -> Figure:
    """Draw loss and learning rate against the step, one row per phase."""
    with canvas(9.6, 2.9 * len(curves), len(curves), 2) as (figure, grid):
        for (loss_axes, rate_axes), curve in zip(grid, curves, strict=True):
            _loss(loss_axes, curve)
            if curve.rate:
                rate_axes.plot(*zip(*curve.rate, strict=True), color=SHIFTED, linewidth=1.6)
            rate_axes.set_title(f"{curve.phase} · learning rate", loc="left")
            rate_axes.set_xlabel("step")
            rate_axes.yaxis.set_major_formatter(lambda rate, _: f"{rate:g}")  # a power above the axis lifts the title
        return saved(
            figure,
            folder,
            "training_curves",
            "Loss by optimiser step, thin as measured and thick as a running mean; dots are the validation loss.",
        )


def _loss(axes: Any, curve: Curve) -> None:
    """Draw the training loss, its running mean, and the validation losses."""
    if curve.loss:
        steps, losses = zip(*curve.loss, strict=True)
        axes.plot(steps, losses, color=TARGET, linewidth=0.7, alpha=0.35)
        axes.plot(steps, running_mean(losses), color=TARGET, linewidth=1.9, label="training")
    if curve.validation:
        axes.plot(
            *zip(*curve.validation, strict=True),
            color=CHOSEN,
            marker="o",
            markersize=5,
            linewidth=1.2,
            label="validation",
        )
    axes.set_title(f"{curve.phase} · loss", loc="left")
    axes.set_xlabel("step")
    legend_below(axes)


def running_mean(values: Sequence[float]) -> list[float]:
    """Return an exponential mean without its start-up bias, over about a twentieth of the series."""
    keep = 1.0 - 1.0 / max(1.0, len(values) / 20)
    mean, weight, smooth = 0.0, 0.0, list[float]()
    for value in values:
        mean, weight = keep * mean + (1 - keep) * value, keep * weight + (1 - keep)
        smooth.append(mean / weight)
    return smooth


def draw_by_step(axes: Any, records: Sequence[Mapping[str, float]], series: Mapping[str, str], title: str) -> None:
    """Draw what curves say by step, thin as measured and thick as a running mean; `series` are names with colours."""
    for name, colour in series.items():
        points = [(one["step"], one[name]) for one in records if name in one]
        if points:
            steps, values = zip(*points, strict=True)
            axes.plot(steps, values, color=colour, linewidth=0.7, alpha=0.35)
            axes.plot(steps, running_mean(values), color=colour, linewidth=1.9, label=name.replace("_", " "))
    axes.set_title(title, loc="left")


def colours(count: int) -> list[str]:
    """Return a colour for each of several evaluations."""
    return [PALETTE[i % len(PALETTE)] for i in range(count)]


@contextmanager
def panels(count: int) -> Generator[tuple[Any, list[Any]]]:
    """Give a figure of panels, nearly square, at most three beside each other: more would be too small to read."""
    columns = min(3, count)
    rows, side = -(-count // columns), min(4.4, 9.6 / columns)
    with canvas(side * columns, 0.92 * side * rows, rows, columns) as (figure, grid):
        axes = list(grid.flat)
        for spare in axes[count:]:
            spare.set_visible(False)
        yield figure, axes[:count]


def legend_below(axes: Any) -> None:
    """Write what the lines are below the axes: inside there is no place that no line or band crosses."""
    from matplotlib.transforms import ScaledTranslation

    words = axes.get_legend_handles_labels()[1]
    below = ScaledTranslation(0.0, -_BELOW / 72, axes.figure.dpi_scale_trans)
    axes.legend(
        frameon=False,
        loc="upper left",
        ncols=3 if sum(map(len, words)) <= _ABREAST else 1,  # long names side by side would squeeze the axes
        columnspacing=1.2,
        borderaxespad=0.0,
        borderpad=0.0,
        bbox_to_anchor=(0.0, 0.0),
        bbox_transform=axes.transAxes + below,
    )


def plain(text: str) -> str:
    """Keep matplotlib from reading a name as mathematics."""
    return text.replace("$", r"\$")


@contextmanager
def canvas(width: float, height: float, rows: int, columns: int) -> Generator[tuple[Any, Any]]:
    """Give an empty figure in the house's style, without pyplot: it would keep every figure and open a window."""
    import matplotlib
    from matplotlib.figure import Figure as Canvas

    style: Any = {
        "svg.fonttype": "none",
        "font.family": "DejaVu Sans",
        "font.size": 9.5,
        "axes.titlesize": 10.5,
        "axes.titleweight": "bold",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.alpha": 0.14,
        "legend.fontsize": 9,
        **dict.fromkeys(
            ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color", "grid.color"), INK
        ),
    }
    with matplotlib.rc_context(style):
        figure = Canvas(figsize=(width, height), layout="constrained")
        yield figure, figure.subplots(rows, columns, squeeze=False)


def saved(figure: Any, folder: Path, name: str, caption: str) -> Figure:
    """Write a figure as PNG and SVG; the same figure gives the same bytes."""
    import matplotlib

    figure.savefig(folder / f"{name}.png", dpi=160, facecolor="white")
    buffer = io.StringIO()
    # The salt makes the SVG's ids a function of the figure: the same bytes each time, no clash on one page.
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    svg = svg.replace("'DejaVu Sans'", _FONT).replace('id="figure_1"', f'id="{name}"')
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    (folder / f"{name}.svg").write_text(svg, encoding="utf-8")
    return Figure(name, svg, caption)
