"""The frame of a figure of images: those of each evaluation on which the chosen model loses most, the worst first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ftlib.data.inputs import Pixels, from_metadata
from ftlib.kinds.outcomes import Outcomes
from ftlib.report.content import Figure
from ftlib.report.figures import canvas, plain, saved

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from jaxtyping import UInt8

LINES = 3
"""Of images, over all evaluations; each evaluation has one at least."""
T = TypeVar("T", bound=Outcomes)


def image_sheet(
    folder: Path,
    name: str,
    tables: Mapping[str, T],
    splits: Mapping[str, Path],
    draw: Callable[[Any, UInt8[np.ndarray, "height width 3"], T, int], None],
    told: str,
    *,
    columns: int,
    height: float,
) -> Figure | None:
    """Draw each evaluation's images of highest loss; `splits` are the files of the rows that `tables` answer.

    `draw` puts the pixels of a table's row on axes, `told` ends the caption, and a line of images takes `height`
    inches. None where no evaluation's rows are images.
    """
    sheets = {name: (table, images) for name, table in tables.items() if (images := images_of(splits[name]))}
    if not sheets:
        return None
    lines = max(1, LINES // len(sheets))
    with canvas(9.6, height * lines * len(sheets), lines * len(sheets), columns) as (figure, grid):
        for i, (evaluation, (table, images)) in enumerate(sheets.items()):
            places = [axes for line in grid[i * lines : (i + 1) * lines] for axes in line]
            for axes in places:
                bare(axes)
            places[0].set_ylabel(plain(evaluation), fontsize=10, fontweight="bold")
            for axes, row in zip(places, worst(table, len(places)), strict=False):
                draw(axes, images(table.row_ids[row]), table, row)
        return saved(figure, folder, name, _caption([*sheets], told))


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


def _caption(evaluations: list[str], told: str) -> str:
    of = f"{evaluations[0]}'s test rows" if len(evaluations) == 1 else "each evaluation's test rows"
    return f"The images among {of} on which the chosen model loses most, the worst first, as it reads them: {told}"
