"""Draw how often each label, or type of entity, gets each answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ftlib.data.iob2 import entities
from ftlib.kinds.outcomes import LabelOutcomes, TaggedOutcomes
from ftlib.report.content import Figure
from ftlib.report.figures import canvas, plain, saved

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Int

LARGEST = 30
"""Labels; more do not fit on a page."""
NOTHING = "(nothing)"
"""In the place of a type: no entity stands just there."""


def confusion(folder: Path, name: str, table: LabelOutcomes | TaggedOutcomes) -> Figure | None:
    """Draw the share of each label's rows, or each type's entities, that get each answer; None if that does not fit.

    None also where there is no entity at all.
    """
    tagged = isinstance(table, TaggedOutcomes)
    names = (*table.entities.types, NOTHING) if tagged else table.labels
    if len(names) > LARGEST:
        return None
    counts = entity_confusion(table) if tagged else confusion_matrix(table)
    if not counts.any():
        return None
    counted = (
        f"entities; one counts as found where its first and last word are, and as {NOTHING} otherwise"
        if tagged
        else "rows"
    )
    caption = (
        f"{name}: the chosen model on the test rows. Numbers are {counted}. Colour is the share of "
        f"the {'type' if tagged else 'label'}'s {'entities' if tagged else 'rows'}."
    )
    return _drawn(folder, counts, names, "type" if tagged else "label", caption)


def confusion_matrix(table: LabelOutcomes) -> Int[np.ndarray, "gold predicted"]:
    """Return how many rows of each label get each answer."""
    import numpy as np

    size = len(table.labels)
    return np.bincount(table.gold * size + table.predicted, minlength=size * size).reshape(size, size)


def entity_confusion(table: TaggedOutcomes) -> Int[np.ndarray, "gold predicted"]:
    """Return how many entities of each type are said to be of each; the last row and column are `NOTHING`.

    Entities are the same with the same first and last word.
    """
    import numpy as np

    types = table.entities.types
    index = {type: i for i, type in enumerate((*types, NOTHING))}
    counts: Counter[tuple[int, int]] = Counter()
    for gold, predicted in zip(table.gold, table.predicted, strict=True):
        ours, theirs = ({entity[1:]: index[entity.type] for entity in entities(tags)} for tags in (gold, predicted))
        counts.update((ours.get(at, len(types)), theirs.get(at, len(types))) for at in ours.keys() | theirs.keys())
    matrix = np.zeros((len(index), len(index)), np.int64)
    for at, count in counts.items():
        matrix[at] = count
    return matrix


def _drawn(
    folder: Path, counts: Int[np.ndarray, "gold predicted"], names: Sequence[str], gold_is: str, caption: str
) -> Figure:
    """Draw the counts as a grid of numbers on shares of their row."""
    shares, size = counts / counts.sum(axis=1, keepdims=True).clip(min=1), len(names)
    with canvas(min(10.0, 2.6 + 0.52 * size), min(9.0, 1.9 + 0.46 * size), 1, 1) as (figure, grid):
        axes = grid[0][0]
        axes.grid(visible=False)
        # Not imshow: in an SVG that is a picture, which neither scales nor prints well.
        axes.pcolormesh(
            range(size),
            range(size),
            shares,
            cmap="Blues",
            vmin=0,
            vmax=1,
            shading="nearest",
            edgecolors="face",
            linewidth=0.3,
        )
        axes.invert_yaxis()
        for gold, predicted in zip(*counts.nonzero(), strict=True):
            # Not INK: it would follow the page into the dark, and the cell under it does not.
            colour = "#ffffff" if shares[gold, predicted] > 0.55 else "#20242f"
            axes.text(predicted, gold, counts[gold, predicted], ha="center", va="center", color=colour, fontsize=8)
        words = [plain(name if len(name) <= 18 else name[:17] + "…") for name in names]
        axes.set_xticks(range(size), words, rotation=45, ha="right")
        axes.set_yticks(range(size), words)
        axes.set_xlabel("answer")
        axes.set_ylabel(gold_is)
        return saved(figure, folder, "confusion", caption)
