"""Plots of what lies between two models: the loss along the path, and how far layers moved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

from ftlib.report.content import Figure
from ftlib.report.figures import SHIFTED, STYLES, TARGET, canvas, colours, legend_below, plain, saved

_SCORES = " Of a score it is a normal distribution's with variance 1: half the squared error + 0.919."


@dataclass(frozen=True)
class Moved:
    """One layer of the fine-tune against its start."""

    layer: str
    relative: float
    """||theta1 - theta0|| over ||theta0||."""
    survives: float | None
    """Share of the moved elements that still differ from theta0 in the chosen mix, stored as bf16; None: none moved."""


def barrier(alphas: Sequence[float], losses: Sequence[float]) -> float:
    """Return how far the loss rises above the straight line between the ends (Frankle et al. 2020); at least 0."""
    return max(
        loss - ((1 - alpha) * losses[0] + alpha * losses[-1]) for alpha, loss in zip(alphas, losses, strict=True)
    )


def loss_path(
    folder: Path, alphas: Sequence[float], losses: Mapping[str, Sequence[float]], *, of_scores: bool = False
) -> Figure:
    """Draw every evaluation's loss along alpha with the chord between its ends; equal ones, of one dataset, once."""
    together: dict[tuple[float, ...], list[str]] = {}
    for name, values in losses.items():
        together.setdefault(tuple(round(value, 6) for value in values), []).append(name)
    with canvas(6.4, 3.6, 1, 1) as (figure, grid):
        axes = grid[0][0]
        for (names, style), colour in zip(
            zip(together.values(), cycle(STYLES), strict=False), colours(len(together)), strict=True
        ):
            values, label = losses[names[0]], plain(" and ".join(names))
            axes.plot(alphas, values, color=colour, label=label, linewidth=1.8, markersize=4.2, **style)
            axes.plot([0, 1], [values[0], values[-1]], color=colour, linewidth=1.0, linestyle=(0, (2, 3)), alpha=0.7)
        axes.set_xlabel("α")
        axes.set_title("loss along the path", loc="left")
        legend_below(axes)
        words = "; ".join(f"{name} {barrier(alphas, values):.3f}" for name, values in losses.items())
        caption = (
            f"Negative log-likelihood (nats) on the validation rows by alpha.{_SCORES if of_scores else ''} "
            "Dotted, the line between the ends. Barrier, its largest height above that line: "
            f"{words}. Near 0, the ends lie in one basin."
        )
        return saved(figure, folder, "loss_path", caption)


def moved(folder: Path, layers: Sequence[Moved], alpha: float) -> Figure:
    """Draw how far each layer moved and what of it a bf16 mix keeps."""
    with canvas(9.6, 1.3 + 0.26 * len(layers), 1, 2) as (figure, grid):
        names = [layer.layer for layer in layers]
        panels = (
            ([layer.relative for layer in layers], TARGET, "distance moved, relative to theta0"),
            ([layer.survives or 0.0 for layer in layers], SHIFTED, f"share surviving bf16 at α = {alpha:g}"),
        )
        for axes, (values, colour, title) in zip(grid[0], panels, strict=True):
            axes.barh(names, values, color=colour, height=0.62)
            axes.invert_yaxis()
            axes.set_title(title, loc="left")
            axes.locator_params(axis="x", nbins=4)  # small distances have long labels
        for row, layer in enumerate(layers):
            if layer.survives is None:
                grid[0][1].text(0.015, row, "did not move", va="center", alpha=0.6)
        grid[0][1].set_xlim(0, 1.02)
        caption = (
            "Left: ||theta1 - theta0|| over ||theta0|| by layer. Right: of the elements that training moved, the share "
            "that still differs from theta0 once the mix is stored as bf16."
        )
        return saved(figure, folder, "layers_moved", caption)
