"""The boxes that the report draws on an image: where they lie, which are drawn, and how they are told apart."""

from __future__ import annotations

from html import unescape
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from ftlib.data.inputs import Pixels
from ftlib.data.prepared import PreparedRow, write_split
from ftlib.kinds.outcomes import BoxOutcomes
from ftlib.kinds.outcomes.boxes import FoundBox, TrueBox
from ftlib.report import box_sheet

COLUMN = Pixels(height=20, width=40, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
GOLD = (TrueBox("cat", 0.25, 0.5, 0.5, 0.25),)
FOUND = (FoundBox("dog", 0.0, 0.0, 1.0, 1.0, 0.9), FoundBox("cat", 0.1, 0.1, 0.2, 0.2, 0.3))


def table(count: int) -> BoxOutcomes:
    return BoxOutcomes(
        row_ids=tuple(f"row{i}" for i in range(count)),
        nll=np.arange(count, dtype=np.float64),
        targets=np.ones(count, np.int64),
        labels=("cat", "dog"),
        gold=(GOLD,) * count,
        predicted=(FOUND,) * count,
    )


def test_a_box_lies_where_its_shares_of_the_image_say_and_unsure_ones_are_left_out() -> None:
    axes = Figure().subplots()
    box_sheet._draw(axes, np.zeros((20, 40, 3), np.uint8), table(1), 0)
    there, said = axes.patches  # pixel centres are whole numbers: the image begins half a pixel before
    assert there.get_bbox().bounds == pytest.approx((0.25 * 40 - 0.5, 0.5 * 20 - 0.5, 0.5 * 40, 0.25 * 20))
    assert said.get_bbox().bounds == pytest.approx((-0.5, -0.5, 40, 20))
    assert (there.get_linestyle(), said.get_linestyle()) == ("-", "--")
    assert there.get_edgecolor() != said.get_edgecolor()
    assert [text.get_text() for text in axes.texts] == ["cat", "dog 90%"]


def test_the_sheet_says_what_is_drawn_and_is_the_same_again(tmp_path: Path) -> None:
    pixels = {"pixel_values": np.full(COLUMN.shape, 200, np.uint8)}
    rows = [PreparedRow(f"row{i}", pixels, "cat", supervised=1) for i in range(2)]
    write_split(tmp_path / "home.arrow", "labeled_images", rows, inputs=(COLUMN,))
    figure = box_sheet.box_sheet(tmp_path, {"home": table(2)}, {"home": tmp_path / "home.arrow"})
    assert figure
    assert "solid what is there, dashed what the model says" in figure.caption
    text = unescape(figure.svg)
    assert "dog 90%" in text
    assert "30%" not in text
    assert box_sheet.box_sheet(tmp_path, {"home": table(2)}, {"home": tmp_path / "home.arrow"}) == figure
