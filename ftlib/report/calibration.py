"""Draw whether a model is right as often as its probabilities say."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ftlib.evaluation.metrics.ece import bin_of, confidences
from ftlib.kinds.outcomes import ComparedOutcomes, LabelOutcomes, MultiLabelOutcomes
from ftlib.report.bins import Bins, bin_means
from ftlib.report.content import Figure
from ftlib.report.figures import INK, colours, panels, plain, saved

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float

BINS = 10

Sure = LabelOutcomes | MultiLabelOutcomes | ComparedOutcomes
"""Tables whose answers have a probability."""


def calibration(folder: Path, tables: Mapping[str, Sure]) -> Figure:
    """Draw how often an answer is right against how probable the model held it, in ten bins of equal width."""
    with panels(len(tables)) as (figure, grid):
        for axes, (name, table), colour in zip(grid, tables.items(), colours(len(tables)), strict=True):
            bins = reliability(table)
            axes.plot([0, 1], [0, 1], color=INK, linewidth=0.9, linestyle=(0, (2, 3)), alpha=0.6)
            axes.errorbar(
                bins.said, bins.true, yerr=1.96 * bins.error, fmt="none", ecolor=colour, elinewidth=1.0, alpha=0.45
            )
            axes.plot(bins.said, bins.true, color=colour, linewidth=1.4, alpha=0.6)
            axes.scatter(bins.said, bins.true, s=12 + 160 * bins.held / bins.held.max(), color=colour, zorder=3)
            axes.set_xlim(-0.03, 1.03)
            axes.set_ylim(-0.03, 1.03)
            several = isinstance(table, MultiLabelOutcomes)
            axes.set_xlabel("probability of a label" if several else "confidence")
            axes.set_ylabel("share of rows that have it" if several else "accuracy")
            axes.set_title(plain(name), loc="left")
        return saved(figure, folder, "calibration", _caption(tables))


def _caption(tables: Mapping[str, Sure]) -> str:
    several = [isinstance(table, MultiLabelOutcomes) for table in tables.values()]
    answers = "each of its answers, one per row and label," if all(several) else "the probability of its answer"
    by = "binned by the probability it gives to each label of each row" if all(several) else f"binned by {answers}"
    below = "it says yes more surely than labels are there" if all(several) else "it is surer than it is right"
    return f"The chosen model on the test rows, {by}; larger dots hold more. Below the dotted line {below}."


def reliability(table: Sure) -> Bins:
    """Return the bins of a table: of each row's answer, or of every yes and no of several labels."""
    import numpy as np

    predicted, true = _answers(table)
    bins = bin_of(predicted.ravel(), BINS)
    held = np.bincount(bins, minlength=BINS)
    share = bin_means(bins, true.ravel(), BINS)
    rows = np.repeat(np.arange(len(predicted)), predicted.shape[1])
    # What a row says of several labels is not independent, so rows are what is counted: residuals are summed by row
    # before they are squared. For one answer a row that is sqrt(p (1 - p) / n).
    residuals = np.bincount(bins + BINS * rows, true.ravel() - share[bins], BINS * len(predicted))
    error = np.sqrt((residuals.reshape(-1, BINS) ** 2).sum(axis=0)) / held.clip(min=1)
    filled = held > 0
    return Bins(bin_means(bins, predicted.ravel(), BINS)[filled], share[filled], error[filled], held[filled])


def _answers(
    table: Sure,
) -> tuple[Float[np.ndarray, "rows answers"], Float[np.ndarray, "rows answers"]]:
    """Return how probable the model held each answer, and 1 where it was so."""
    import numpy as np

    if isinstance(table, MultiLabelOutcomes):
        return table.probabilities.astype(np.float64), table.gold.astype(np.float64)
    confidence, right = confidences(table)
    return confidence[:, None], right[:, None]
