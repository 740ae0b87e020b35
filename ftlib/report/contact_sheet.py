"""The images that the chosen model answers worst, as thumbnails."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftlib.kinds.outcomes import LabelOutcomes
from ftlib.report.content import Figure
from ftlib.report.figures import INK, SHIFTED, plain
from ftlib.report.image_sheet import image_sheet

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import UInt8

COLUMNS = 8
_LONGEST = 12
"""Letters of a label that fit below a thumbnail."""


def contact_sheet(folder: Path, tables: Mapping[str, LabelOutcomes], splits: Mapping[str, Path]) -> Figure | None:
    """Draw each evaluation's rows of highest loss, worst first, with what each is and what the model says.

    `splits` are the files of the rows that `tables` answer. None where no evaluation's rows are images.
    """
    told = "what each is, and the answer with its probability, coloured where it is wrong."
    return image_sheet(folder, "contact_sheet", tables, splits, _thumbnail, told, columns=COLUMNS, height=1.62)


def _thumbnail(axes: Any, pixels: UInt8[np.ndarray, "height width 3"], table: LabelOutcomes, row: int) -> None:
    gold, predicted = int(table.gold[row]), int(table.predicted[row])
    sure = f"{table.probabilities[row, predicted]:.0%}"
    axes.imshow(pixels, interpolation="nearest")
    axes.set_xlabel(f"is {_short(table.labels[gold])}\n ", fontsize=7.5, labelpad=2)  # with room for a second line
    answer = f"predicted {_short(table.labels[predicted])} {sure}"
    # In that line, and of another colour where it is wrong.
    axes.text(
        0.5,
        -0.18,
        answer,
        transform=axes.transAxes,
        ha="center",
        va="top",
        fontsize=7.5,
        color=INK if gold == predicted else SHIFTED,
    )


def _short(label: str) -> str:
    return plain(label if len(label) <= _LONGEST else f"{label[: _LONGEST - 1]}…")
