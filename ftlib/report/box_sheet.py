"""Images with the boxes that are there and those that the chosen model says, the worst first."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftlib.kinds.outcomes.boxes import BoxOutcomes
from ftlib.kinds.predictions.boxed_images import SURE
from ftlib.report.content import Figure
from ftlib.report.figures import CHOSEN, SHIFTED, plain
from ftlib.report.image_sheet import image_sheet

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import UInt8

COLUMNS = 6


def box_sheet(folder: Path, tables: Mapping[str, BoxOutcomes], splits: Mapping[str, Path]) -> Figure | None:
    """Draw each evaluation's images of highest loss; `splits` are the files of the rows that `tables` answer.

    None where there is no evaluation.
    """
    told = f"solid what is there, dashed what the model says with a score of {SURE:g} or more."
    return image_sheet(folder, "box_sheet", tables, splits, _draw, told, columns=COLUMNS, height=1.75)


def _draw(axes: Any, pixels: UInt8[np.ndarray, "height width 3"], table: BoxOutcomes, row: int) -> None:
    from matplotlib.patches import Rectangle

    axes.imshow(pixels, interpolation="nearest")
    height, width = pixels.shape[:2]
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
