"""Words beside points: looked at again in another resolution, none covers a point, a ring or other words."""

from __future__ import annotations

import math
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text

from ftlib.report.words_on_plots import Mark, label_apart

STEEP = [(186.0, 1929.0), (208.0, 1928.0), (316.0, 1942.0), (681.0, 1982.0), (2142.0, 2056.0)]
NEAR = [(0.59, 0.55), (0.63, 0.59), (0.66, 0.60), (0.668, 0.607), (0.669, 0.609), (0.66, 0.58)]
SAME = [(0.5, 0.5)] * 5


def crowded(seed: int) -> list[tuple[float, float]]:
    steps = np.random.default_rng(seed).normal(size=(8, 2)) * np.geomspace(1, 0.05, 8)[:, None]
    return [(float(x), float(y)) for x, y in steps.cumsum(axis=0)]


@pytest.mark.parametrize("points", [STEEP, STEEP[::-1], NEAR, NEAR[::-1], SAME, *map(crowded, range(12))])
def test_words_on_a_plot_cover_no_point_and_no_other_word(points: list[tuple[float, float]]) -> None:
    figure = Figure(figsize=(4.8, 4.0), layout="constrained")
    axes: Any = figure.subplots()
    axes.plot(*zip(*points, strict=True))
    axes.margins(0.12)
    marks = [Mark(*point, 3.7) for point in points]
    marks[0] = Mark(*points[0], 3.7, "α = 0", "black")
    marks[-1] = Mark(*points[-1], 3.7, "α = 1", "black")
    marks.insert(0, Mark(*points[-2], 7.9, "α = 0.8 · chosen", "red"))
    label_apart(axes, marks, list(pairwise(points)))

    figure.dpi = 160
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    words = [text for text in axes.texts if isinstance(text, Annotation)]
    assert sorted(text.get_text() for text in words) == ["α = 0", "α = 0.8 · chosen", "α = 1"]
    # Of the words alone: an annotation's own extent has its line to the mark.
    boxes = [Text.get_window_extent(text, canvas.get_renderer()) for text in words]
    assert not [pair for pair in combinations(boxes, 2) if pair[0].overlaps(pair[1])]
    for box in boxes:
        assert axes.bbox.x0 <= box.x0 < box.x1 <= axes.bbox.x1 + 1
        assert axes.bbox.y0 <= box.y0 < box.y1 <= axes.bbox.y1 + 1
        for mark in marks:
            x, y = axes.transData.transform((mark.x, mark.y))
            corner = (np.clip(x, box.x0, box.x1), np.clip(y, box.y0, box.y1))
            assert math.dist((x, y), corner) >= mark.radius * 160 / 72 - 1
