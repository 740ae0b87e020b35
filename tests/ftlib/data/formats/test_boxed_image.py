"""Boxes as they are written: which are read, and what is said of the others."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers import YolosImageProcessorPil

from ftlib.data.formats.boxed_image import BoxedImage
from ftlib.data.images.cells import to_cell
from ftlib.data.processor import Processor
from ftlib.data.rows import Dropped, Encoded, Example


def cell(width: int, height: int) -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(buffer, "PNG")
    made = to_cell(buffer.getvalue())
    assert base64.b64encode(buffer.getvalue()).decode() in made
    return made


def encoded(boxes: Any, width: int = 40, height: int = 20, **fields: Any) -> Encoded | Dropped:
    format = BoxedImage(**fields)
    example = format.example({"image": cell(width, height), "boxes": boxes})
    if isinstance(example, Dropped):
        return example
    processor: Any = YolosImageProcessorPil(size={"height": 16, "width": 16}, do_pad=False)
    nothing: Any = None
    return format.encode([example], Processor(lambda: nothing, lambda: processor, lambda: 0))[0]


def box(*numbers: Any, label: Any = "cat", **more: Any) -> dict[str, Any]:
    return {"label": label, "box": [*numbers], **more}


@pytest.mark.parametrize("unit", ["pixels", "shares"])
@pytest.mark.parametrize("written", [list, json.dumps])
def test_boxes_become_shares_of_the_image_whatever_its_sides(unit: str, written: Any) -> None:
    sides = (40, 20) * 2 if unit == "pixels" else (1,) * 4
    one = [value * side for value, side in zip((0.25, 0.5, 0.5, 0.25), sides, strict=True)]
    made = encoded(written([box(*one), box(*one, label=7, crowd=True)]), unit=unit)
    assert isinstance(made, Encoded)
    target: Any = made.pieces[0].target
    assert target["labels"] == ["cat", "7"]
    assert target["crowd"] == [False, True]
    assert (target["width"], target["height"]) == (40, 20)
    assert target["boxes"] == pytest.approx([0.25, 0.5, 0.5, 0.25] * 2)
    assert np.asarray(made.pieces[0].inputs["pixel_values"]).shape == (3, 16, 16)


def test_an_image_without_boxes_is_kept() -> None:
    made = encoded([])
    assert isinstance(made, Encoded)
    assert made.pieces[0].target == {"labels": [], "boxes": [], "crowd": [], "width": 40, "height": 20}


def test_what_is_rounded_over_the_edge_is_cut() -> None:
    made = encoded([box(-0.2, 0, 40.3, 20.1)])
    assert isinstance(made, Encoded)
    target: Any = made.pieces[0].target
    assert target["boxes"] == pytest.approx([0, 0, 1, 1])


@pytest.mark.parametrize(
    ("boxes", "reason"),
    [
        (None, "missing_boxes"),
        ("cat", "boxes_not_a_list"),
        ({"label": "cat"}, "boxes_not_a_list"),
        ("[" * 100_000, "boxes_not_a_list"),
        (["cat"], "odd_box"),
        ([box(1, 1, 2, 2, colour="red")], "odd_box"),
        ([box(1, 1, 2, 2, crowd="often")], "odd_box"),
        ([box(1, 1, 2)], "box_not_numbers"),
        ([box(1, 1, 2, "2")], "box_not_numbers"),
        ([box(1, 1, True, 2)], "box_not_numbers"),
        ("[" + json.dumps(box(1, 1, 2, float("nan"))) + "]", "box_not_numbers"),
        ([box(1, 1, 2, 10**400)], "box_not_numbers"),
        ([{"label": "cat"}], "box_not_numbers"),
        ([{"box": [1, 1, 2, 2]}], "missing_label"),
        ([box(1, 1, 2, 2, label=" ")], "empty_label"),
        ([box(1, 1, 0, 2)], "box_without_area"),
        ([box(1, 1, 2, -2)], "box_without_area"),
        ([box(1, 1, 2, 2)] * 4, "too_many_boxes"),
    ],
)
def test_a_row_that_cannot_be_taught_says_why(boxes: Any, reason: str) -> None:
    made = encoded(boxes, most_boxes=3)
    assert isinstance(made, Dropped)
    assert made.reason == reason


@pytest.mark.parametrize(("unit", "numbers"), [("pixels", (30, 5, 15, 5)), ("shares", (0.5, 0, 0.6, 0.5))])
def test_a_box_beyond_the_image_drops_its_row(unit: str, numbers: tuple[float, ...]) -> None:
    made = encoded([box(*numbers)], unit=unit)
    dropped = made.dropped if isinstance(made, Encoded) else made
    assert dropped is not None
    assert dropped.reason == "box_outside"
    assert "40 x 20" in dropped.detail or "0 to 1" in dropped.detail


def test_copies_are_told_by_the_image_alone() -> None:
    made = [BoxedImage().example({"image": cell(8, 8), "boxes": boxes}) for boxes in ([], [box(1, 1, 2, 2)])]
    assert all(isinstance(one, Example) for one in made)
    assert len({one.text for one in made if isinstance(one, Example)}) == 1
