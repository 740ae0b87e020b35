"""The images that the chosen model answers worst, as thumbnails."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftlib.data.inputs import Pixels, from_metadata
from ftlib.kinds.outcomes import LabelOutcomes, Outcomes
from ftlib.report.content import Figure
from ftlib.report.figures import INK, SHIFTED, canvas, plain, saved

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from jaxtyping import UInt8

COLUMNS = 8
LINES = 3
"""Of thumbnails, over all evaluations; each evaluation has one at least."""
_LONGEST = 12
"""Letters of a label that fit below a thumbnail."""


def contact_sheet(folder: Path, tables: Mapping[str, LabelOutcomes], splits: Mapping[str, Path]) -> Figure | None:
    """Draw each evaluation's rows of highest loss, worst first, with what each is and what the model says.

    `splits` are the files of the rows that `tables` answer. None where no evaluation's rows are images.
    """
    sheets = {name: (table, images) for name, table in tables.items() if (images := images_of(splits[name]))}
    if not sheets:
        return None
    lines = max(1, LINES // len(sheets))
    with canvas(9.6, 1.62 * lines * len(sheets), lines * len(sheets), COLUMNS) as (figure, grid):
        for i, (name, (table, images)) in enumerate(sheets.items()):
            places = [axes for line in grid[i * lines : (i + 1) * lines] for axes in line]
            for axes in places:
                bare(axes)
            places[0].set_ylabel(plain(name), fontsize=10, fontweight="bold")
            for axes, row in zip(places, worst(table, len(places)), strict=False):
                _thumbnail(axes, images(table.row_ids[row]), table, row)
        return saved(figure, folder, "contact_sheet", _caption([*sheets]))


def worst(table: Outcomes, most: int) -> list[int]:
    """Return the rows of highest loss, the highest first; of equals the first."""
    import numpy as np

    return np.argsort(-table.nll, kind="stable")[:most].tolist()


class Images:
    """The pixels of a prepared split, by row id; only those that are asked for are read."""

    def __init__(self, table: pa.Table, column: Pixels) -> None:
        """Read a split's `column` in place."""
        self._places = {row_id: i for i, row_id in enumerate(table["row_id"].to_pylist())}
        self._cells, self._shape = table[column.name], column.shape

    def __call__(self, row_id: str) -> UInt8[np.ndarray, "height width 3"]:
        """Return one row's."""
        import numpy as np

        cell: Any = self._cells[self._places[row_id]]
        return cell.values.to_numpy().astype(np.uint8).reshape(self._shape).transpose(1, 2, 0)


def images_of(split: Path) -> Images | None:
    """Return what reads the pixels of a split's rows; None where they are no images."""
    import pyarrow as pa

    table = pa.ipc.open_file(pa.memory_map(str(split))).read_all()
    column = next((one for one in from_metadata(table.schema.metadata) if isinstance(one, Pixels)), None)
    return Images(table, column) if column else None


def bare(axes: Any) -> None:
    """Leave an image alone in its place."""
    axes.grid(visible=False)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


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


def _caption(names: list[str]) -> str:
    of = f"{names[0]}'s test rows" if len(names) == 1 else "each evaluation's test rows"
    return (
        f"The images among {of} on which the chosen model loses most, the worst first, as it reads them: what each is, "
        "and the answer with its probability, coloured where it is wrong."
    )
