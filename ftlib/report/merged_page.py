"""The page of a merge: how far the result is from what it was made of, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ftlib.merging.layer_distances import LayerDistance, layer_distances
from ftlib.report.content import Cell, Figure, Row, Section, Table
from ftlib.report.figures import canvas, colours, legend_below, plain, saved


def distances_section(names: Sequence[str], inputs: Sequence[Path], merged: Path, folder: Path) -> Section:
    """Measure the result against every input, and draw it into the folder. Raises ModelError if they do not fit."""
    layers = {name: layer_distances(start, merged, 1.0) for name, start in zip(names, inputs, strict=True)}
    order = [layer.layer for layer in next(iter(layers.values()))]
    by_layer = {name: {layer.layer: layer for layer in of} for name, of in layers.items()}
    return Section(
        "distances",
        "How far each layer lies from each input",
        "The norm of the difference over the norm of the input: 0 is a copy.",
        figures=[_figure(folder, order, by_layer)],
        tables=[
            Table(
                columns=["layer", *names],
                rows=[
                    Row([Cell(layer), *(Cell(f"{of[layer].relative:.2g}") for of in by_layer.values())])
                    for layer in order
                ],
                numeric=frozenset(range(1, len(names) + 1)),
            )
        ],
    )


def _figure(folder: Path, order: Sequence[str], by_layer: Mapping[str, Mapping[str, LayerDistance]]) -> Figure:
    """Draw a group of bars for each layer, a bar for each input."""
    thick = 0.8 / len(by_layer)
    with canvas(7.2, 1.4 + 0.3 * len(order), 1, 1) as (figure, grid):
        axes = grid[0][0]
        for i, ((name, layers), colour) in enumerate(zip(by_layer.items(), colours(len(by_layer)), strict=True)):
            at = [row + (i - (len(by_layer) - 1) / 2) * thick for row in range(len(order))]
            axes.barh(at, [layers[layer].relative for layer in order], thick * 0.9, color=colour, label=plain(name))
        axes.set_yticks(range(len(order)), [plain(layer) for layer in order])
        axes.invert_yaxis()
        axes.set_title("distance from each input, relative to it", loc="left")
        axes.locator_params(axis="x", nbins=5)
        legend_below(axes)
        return saved(figure, folder, "distances", "How far each layer of the result lies from each input.")
