"""Images with the boxes that are there and those that the chosen model says, the worst first."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ftlib.kinds.outcomes.boxes import BoxOutcomes
from ftlib.report.contact_sheet import bare, images_of, worst
from ftlib.report.content import Figure
from ftlib.report.figures import CHOSEN, SHIFTED, canvas, plain, saved

COLUMNS = 6
LINES = 3
"""Of images, over all evaluations; each evaluation has one at least."""
SURE = 0.5
"""From this score on a box is drawn, as `reglage predict` tells it."""


def box_sheet(folder: Path, tables: Mapping[str, BoxOutcomes], splits: Mapping[str, Path]) -> Figure | None:
    """Draw each evaluation's images of highest loss; `splits` are the files of the rows that `tables` answer.

    None where there is no evaluation.
    """
    sheets = {name: (table, images) for name, table in tables.items() if (images := images_of(splits[name]))}
    if not sheets:
        return None
    lines = max(1, LINES // len(sheets))
    with canvas(9.6, 1.75 * lines * len(sheets), lines * len(sheets), COLUMNS) as (figure, grid):
        for i, (name, (table, images)) in enumerate(sheets.items()):
            places = [axes for line in grid[i * lines : (i + 1) * lines] for axes in line]
            for axes in places:
                bare(axes)
            places[0].set_ylabel(plain(name), fontsize=10, fontweight="bold")
            for axes, row in zip(places, worst(table, len(places)), strict=False):
                pixels = images(table.row_ids[row])
                axes.imshow(pixels, interpolation="nearest")
                _draw(axes, table, row, pixels.shape[:2])
        return saved(figure, folder, "box_sheet", _caption([*sheets]))


def _draw(axes: Any, table: BoxOutcomes, row: int, sides: tuple[int, ...]) -> None:
    from matplotlib.patches import Rectangle

    height, width = sides
    found = [(one, f"{one.label} {one.score:.0%}") for one in table.predicted[row] if one.score >= SURE]
    for boxes, colour, line in (([(one, one.label) for one in table.gold[row]], CHOSEN, "-"), (found, SHIFTED, "--")):
        for box, words in boxes:
            place = (box.left * width - 0.5, box.top * height - 0.5)
            sized = Rectangle(place, box.width * width, box.height * height, fill=False, ec=colour, lw=1.2, ls=line)
            axes.add_patch(sized)
            under = colour == SHIFTED
            at = place[1] + (box.height * height if under else 0)
            alignment = "top" if under else "bottom"
            axes.text(place[0], at, plain(words), fontsize=5.5, color=colour, va=alignment, clip_on=True)


def _caption(names: list[str]) -> str:
    of = f"{names[0]}'s test rows" if len(names) == 1 else "each evaluation's test rows"
    return (
        f"The images among {of} on which the chosen model loses most, the worst first, as it reads them: solid what is "
        f"there, dashed what the model says with a score of {SURE:g} or more."
    )
