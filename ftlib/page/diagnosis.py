"""Plots of what lies behind the numbers: the loss along the path, calibration, confusion, how far layers moved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftlib.metrics.ece import bin_of, confidences
from ftlib.outcomes import LabelOutcomes
from ftlib.page.content import Figure
from ftlib.page.figures import INK, SHIFTED, TARGET, canvas, saved

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float, Int

COLOURS = (TARGET, SHIFTED, "#0f9d76", "#8b5cf6", "#d4a017")
BINS = 10
LARGEST_CONFUSION = 30
"""Labels; more do not fit on a page."""


@dataclass(frozen=True)
class Moved:
    """One layer of the fine-tune against its start."""

    layer: str
    relative: float
    """||theta1 - theta0|| over ||theta0||."""
    survives: float
    """Share of the moved elements that still differ from theta0 in the chosen mix, stored as bf16."""


def barrier(alphas: Sequence[float], losses: Sequence[float]) -> float:
    """Return how far the loss rises above the straight line between the ends (Frankle et al. 2020); at least 0."""
    return max(
        loss - ((1 - alpha) * losses[0] + alpha * losses[-1]) for alpha, loss in zip(alphas, losses, strict=True)
    )


def loss_path(folder: Path, alphas: Sequence[float], losses: Mapping[str, Sequence[float]]) -> Figure:
    """Draw every evaluation's loss along alpha with the chord between its ends."""
    with canvas(6.4, 3.6, 1, 1) as (figure, grid):
        axes = grid[0][0]
        for (name, values), colour in zip(losses.items(), _cycle(len(losses)), strict=True):
            axes.plot(alphas, values, color=colour, marker="o", markersize=3.6, linewidth=1.8, label=name)
            axes.plot([0, 1], [values[0], values[-1]], color=colour, linewidth=1.0, linestyle=(0, (2, 3)), alpha=0.7)
        axes.set_xlabel("α")
        axes.set_title("loss along the path", loc="left")
        axes.legend(frameon=False, loc="best")
        words = "; ".join(f"{name} {barrier(alphas, values):.3f}" for name, values in losses.items())
        caption = (
            "Negative log-likelihood (nats) on the validation rows by alpha; dotted, the line between the ends. "
            f"Barrier, its largest height above that line: {words}. Near 0, the ends lie in one basin."
        )
        return saved(figure, folder, "loss_path", caption)


def calibration(folder: Path, tables: Mapping[str, LabelOutcomes]) -> Figure:
    """Draw accuracy against confidence in ten bins, with the rows in each."""
    with canvas(4.6 * max(1, len(tables)), 3.9, 1, max(1, len(tables))) as (figure, grid):
        for axes, (name, table), colour in zip(grid[0], tables.items(), _cycle(len(tables)), strict=True):
            confidence, accuracy, rows = calibration_points(table)
            axes.plot([0, 1], [0, 1], color=INK, linewidth=0.9, linestyle=(0, (2, 3)), alpha=0.6)
            spread = 1.96 * (accuracy * (1 - accuracy) / rows) ** 0.5
            axes.errorbar(confidence, accuracy, yerr=spread, fmt="none", ecolor=colour, elinewidth=1.0, alpha=0.45)
            axes.plot(confidence, accuracy, color=colour, linewidth=1.4, alpha=0.6)
            axes.scatter(confidence, accuracy, s=12 + 160 * rows / rows.max(), color=colour, zorder=3)
            axes.set_xlim(-0.03, 1.03)
            axes.set_ylim(-0.03, 1.03)
            axes.set_xlabel("confidence")
            axes.set_ylabel("accuracy")
            axes.set_title(name, loc="left")
        caption = (
            "The chosen model on the test rows, binned by the probability of its answer; larger dots hold more rows. "
            "Below the dotted line it is surer than it is right."
        )
        return saved(figure, folder, "calibration", caption)


def calibration_points(
    table: LabelOutcomes,
) -> tuple[Float[np.ndarray, " bins"], Float[np.ndarray, " bins"], Float[np.ndarray, " bins"]]:
    """Return mean confidence, accuracy and rows of every bin that holds rows."""
    import numpy as np

    confidence, right = confidences(table)
    where = bin_of(confidence, BINS)
    rows = np.bincount(where, minlength=BINS).astype(np.float64)
    held = rows > 0
    means = [np.bincount(where, values, BINS)[held] / rows[held] for values in (confidence, right)]
    return means[0], means[1], rows[held]


def confusion_matrix(table: LabelOutcomes) -> Int[np.ndarray, "gold predicted"]:
    """Return how many rows of each label get each answer."""
    import numpy as np

    size = len(table.labels)
    return np.bincount(table.gold * size + table.predicted, minlength=size * size).reshape(size, size)


def confusion(folder: Path, name: str, table: LabelOutcomes) -> Figure:
    """Draw the share of each label's rows that get each answer."""
    counts = confusion_matrix(table)
    shares = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    size = len(table.labels)
    with canvas(min(10.0, 2.6 + 0.52 * size), min(9.0, 1.9 + 0.46 * size), 1, 1) as (figure, grid):
        axes = grid[0][0]
        axes.grid(visible=False)
        # Not imshow: in an SVG that is a picture, which neither scales nor prints well.
        axes.pcolormesh(range(size), range(size), shares, cmap="Blues", vmin=0, vmax=1, shading="nearest")
        axes.invert_yaxis()
        for gold, predicted in zip(*counts.nonzero(), strict=True):
            # Not INK: it would follow the page into the dark, and the cell under it does not.
            colour = "#ffffff" if shares[gold, predicted] > 0.55 else "#20242f"
            axes.text(predicted, gold, counts[gold, predicted], ha="center", va="center", color=colour, fontsize=8)
        words = [label if len(label) <= 18 else label[:17] + "…" for label in table.labels]
        axes.set_xticks(range(size), [_plain(word) for word in words], rotation=45, ha="right")
        axes.set_yticks(range(size), [_plain(word) for word in words])
        axes.set_xlabel("answer")
        axes.set_ylabel("label")
        caption = (
            f"{name}: the chosen model on the test rows. Numbers are rows; colour is the share of the label's rows."
        )
        return saved(figure, folder, "confusion", caption)


def moved(folder: Path, layers: Sequence[Moved], alpha: float) -> Figure:
    """Draw how far each layer moved and what of it a bf16 mix keeps."""
    with canvas(9.6, 1.3 + 0.26 * len(layers), 1, 2) as (figure, grid):
        names = [layer.layer for layer in layers]
        panels = (
            ([layer.relative for layer in layers], TARGET, "distance moved, relative to theta0"),
            ([layer.survives for layer in layers], SHIFTED, f"share surviving bf16 at α = {alpha:g}"),
        )
        for axes, (values, colour, title) in zip(grid[0], panels, strict=True):
            axes.barh(names, values, color=colour, height=0.62)
            axes.invert_yaxis()
            axes.set_title(title, loc="left")
            axes.locator_params(axis="x", nbins=4)  # small distances have long labels
        grid[0][1].set_xlim(0, 1.02)
        caption = (
            "Left: ||theta1 - theta0|| over ||theta0|| by layer. Right: of the elements that training moved, the share "
            "that still differs from theta0 once the mix is stored as bf16."
        )
        return saved(figure, folder, "layers_moved", caption)


def _plain(text: str) -> str:
    """Keep matplotlib from reading a label as mathematics."""
    return text.replace("$", r"\$")


def _cycle(count: int) -> list[Any]:
    return [COLOURS[i % len(COLOURS)] for i in range(count)]
