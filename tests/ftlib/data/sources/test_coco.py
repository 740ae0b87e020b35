"""COCO's JSON into rows, held against pycocotools, and what is said of files that do not join."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import pytest

from ftlib.data.formats.boxed_image import BoxedImage
from ftlib.data.images.cells import from_cell
from ftlib.data.rows import BadRow, Example, Row
from ftlib.data.sources.coco import Coco
from ftlib.errors import DataError
from tests.ftlib.data.images.pictures import encoded, noise

PICTURES = {f"photos/{i}.png": encoded(noise(seed=i)) for i in range(3)}
CATEGORIES = [{"id": 18, "name": "dog", "supercategory": "animal"}, {"id": 3, "name": "car"}]


def annotation(number: Any, image: Any, category: Any = 18, **more: Any) -> dict[str, Any]:
    told = {"id": number, "image_id": image, "category_id": category, "bbox": [1.5, 2, 3, 4], "area": 12, "iscrowd": 0}
    return {**told, "segmentation": [[1, 2, 3, 4, 5, 6]], **more}


def images(*names: str) -> list[dict[str, Any]]:
    return [{"id": 10 + i, "file_name": name, "width": 8, "height": 8, "license": 1} for i, name in enumerate(names)]


def source(folder: Path, **lists: Any) -> Coco:
    for name, data in PICTURES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    told = {
        "info": {},
        "images": images("0.png", "1.png", "2.png"),
        "annotations": [],
        "categories": CATEGORIES,
        **lists,
    }
    (folder / "annotations").mkdir(exist_ok=True)
    (folder / "annotations/instances.json").write_text(json.dumps(told))
    return Coco(path=f"{folder}/annotations/instances.json", images_in=f"{folder}/photos")


def read(made: Coco, row_bytes: int = 1_000_000) -> list[Any]:
    return list(made.read(made.pin(), row_bytes))


def test_rows_are_what_pycocotools_joins(tmp_path: Path) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    found = [annotation(1, 12, 3), annotation(2, 10), annotation(3, 12, iscrowd=1, segmentation={"counts": "a"})]
    made = source(tmp_path, annotations=found)
    rows = {row.values["path"]: row.values for row in read(made)}
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = coco.COCO(made.path)
    assert [*rows] == ["0.png", "1.png", "2.png"]
    for image in theirs.loadImgs(theirs.getImgIds()):
        row = rows[image["file_name"]]
        joined = theirs.loadAnns(theirs.getAnnIds(imgIds=image["id"]))
        assert [(box["label"], box["box"], int(box.get("crowd", False))) for box in row["boxes"]] == [
            (theirs.cats[one["category_id"]]["name"], one["bbox"], one["iscrowd"]) for one in joined
        ]
        assert from_cell(str(row["image"])) == PICTURES[f"photos/{image['file_name']}"]
    assert rows["1.png"]["boxes"] == []
    assert all(isinstance(BoxedImage().example(row), Example) for row in rows.values())


@pytest.mark.parametrize(
    ("lists", "reasons", "said"),
    [
        ({"annotations": [annotation(1, 10, 99)]}, {1: "unknown_category"}, "annotations[0] is of category 99"),
        ({"annotations": [annotation(1, 10, "18")]}, {1: "unknown_category"}, "category '18'"),
        (
            {"annotations": [annotation(1, 10), annotation(2, 77)]},
            {2: "unknown_image"},
            "annotations[1] is of image 77",
        ),
        ({"annotations": [annotation(1, None)]}, {1: "unknown_image"}, "image None"),
        ({"annotations": [annotation(5, 10), annotation(5, 11)]}, {1: "odd_id", 2: "odd_id"}, "the id 5, as 1 more"),
        ({"annotations": [annotation(1, 10, bbox=None)]}, {1: "odd_annotation"}, "bbox None"),
        ({"annotations": [annotation(1, 10, bbox=[1, 2, 3])]}, {1: "odd_annotation"}, "needed are four numbers"),
        ({"annotations": [annotation(1, 10, bbox=[1, 2, 3, "4"])]}, {1: "odd_annotation"}, "bbox [1, 2, 3, '4']"),
        ({"annotations": [annotation(1, 10, bbox=[1, 2, 3, True])]}, {1: "odd_annotation"}, "bbox [1, 2, 3, True]"),
        ({"annotations": [annotation(1, 10, bbox=[1, 2, 3, 10**400])]}, {1: "odd_annotation"}, "bbox [1, 2, 3, 1000"),
        ({"annotations": [annotation(1, 10, iscrowd="no")]}, {1: "odd_annotation"}, "iscrowd 'no'"),
        ({"images": [*images("0.png"), *images("1.png")]}, {1: "odd_id", 2: "odd_id"}, "2 images have the id 10"),
        ({"images": [{"id": True, "file_name": "0.png"}]}, {1: "odd_id"}, "the id True"),
        ({"images": [{"file_name": "0.png"}]}, {1: "odd_id"}, "the id None"),
        ({"images": images("0.png", "gone.png")}, {2: "missing_image_file"}, "'gone.png'"),
        ({"images": images("../annotations/instances.json")}, {1: "image_outside"}, "names the file"),
        ({"images": [{"id": 1, "file_name": 7}]}, {1: "not_an_image"}, "int"),
    ],
)
def test_what_does_not_join_is_told_and_all_else_is_kept(
    tmp_path: Path, lists: dict[str, Any], reasons: dict[int, str], said: str
) -> None:
    found = read(source(tmp_path, **lists))
    bad = [row for row in found if isinstance(row, BadRow)]
    assert {row.line: row.reason for row in bad} == reasons
    assert said in bad[0].detail
    orphans = sum(reason == "unknown_image" for reason in reasons.values())
    assert len(found) == len(lists.get("images", PICTURES)) + orphans


def test_a_row_larger_than_allowed_is_told(tmp_path: Path) -> None:
    made = source(tmp_path, annotations=[annotation(i, 11) for i in range(200)])
    first, second, _ = read(made, 9_000)
    assert isinstance(first, Row)
    assert isinstance(second, BadRow)
    assert second.reason == "too_large"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no COCO JSON"),
        ("[]", "needed are an object with the lists images, annotations and categories"),
        ('{"images": [], "annotations": []}', "categories"),
        ('{"images": {}, "annotations": [], "categories": []}', "images"),
        ('{"images": [3], "annotations": [], "categories": []}', "images"),
        ("[" * 100_000, "no COCO JSON"),
        (
            json.dumps({"images": [], "annotations": [], "categories": [*CATEGORIES, {"id": 3, "name": "x"}]}),
            "the id 3",
        ),
        (json.dumps({"images": [], "annotations": [], "categories": [*CATEGORIES, {"id": 4, "name": "car"}]}), "'car'"),
    ],
)
def test_a_file_that_is_none_ends_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    made = source(tmp_path)
    Path(made.path).write_text(text)
    with pytest.raises(DataError) as caught:
        read(made)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_changed_image_is_new_data_and_one_that_changes_meanwhile_is_refused(tmp_path: Path) -> None:
    made = source(tmp_path)
    pinned = made.pin()
    (tmp_path / "photos/1.png").write_bytes(encoded(noise(seed=9)))
    assert {file.sha256 for file in made.pin()} != {file.sha256 for file in pinned}
    with pytest.raises(DataError, match=r"1\.png"):
        list(made.read(pinned, 1_000_000))
