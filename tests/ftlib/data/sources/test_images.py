"""Images into rows: by folder, by path, as bytes, as text, here and in a bucket."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from ftlib.data.dataset import Dataset
from ftlib.data.images.cells import from_cell, to_cell
from ftlib.data.images.decoding import PIXELS
from ftlib.data.rows import BadRow, Row
from ftlib.data.sources import Source
from ftlib.data.sources.files import Files
from ftlib.data.sources.huggingface import HuggingFace
from ftlib.data.sources.image_folder import ImageFolder
from ftlib.errors import DataError, RecipeError
from ftlib.fingerprint import digest, identify
from ftlib.testing import write_jsonl
from tests.ftlib.data.images.pictures import encoded, noise

PNG, JPEG = encoded(noise()), encoded(noise(seed=1), "JPEG")


def write(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def rows(source: Source, row_bytes: int = 1_000_000) -> list[dict[str, Any]]:
    found = list(source.read(source.pin(), row_bytes))
    assert all(isinstance(row, Row) for row in found), found
    return [row.values for row in found if isinstance(row, Row)]


def bad(source: Source, row_bytes: int = 1_000_000) -> dict[int, tuple[str, str]]:
    found = source.read(source.pin(), row_bytes)
    return {row.line: (row.reason, row.detail) for row in found if isinstance(row, BadRow)}


ICONS = {
    "dog/1.png": PNG,
    "dog/deep/2.JPG": JPEG,
    "cat/1.png": encoded(noise(seed=2)),
    "top.gif": encoded(noise(), "GIF"),
}


def labels(source: ImageFolder) -> dict[str, str | None]:
    return {str(row["path"]): row.get("label") for row in rows(source)}


def test_the_folder_is_the_label_and_which_one_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, data in ICONS.items():
        write(tmp_path, f"icons/{name}", data)
    for name in (".cache/x.png", "_old/x.png", "dog/.x.png", "dog/y.png.tmp", "dog/notes.txt"):
        write(tmp_path, f"icons/{name}", PNG)
    top = {"dog/1.png": "dog", "dog/deep/2.JPG": "dog", "cat/1.png": "cat", "top.gif": None}
    monkeypatch.chdir(tmp_path)
    for path in (str(tmp_path / "icons"), f"{tmp_path}/icons/", "icons", "./icons"):
        assert labels(ImageFolder(path=path)) == top
    assert labels(ImageFolder(path="icons", label_level=-1)) == {**top, "dog/deep/2.JPG": "deep"}
    assert labels(ImageFolder(path="icons", label_level=2)) == {**dict.fromkeys(top), "dog/deep/2.JPG": "deep"}
    assert labels(ImageFolder(path="icons/**/*.png")) == {name: top[name] for name in top if name.endswith("png")}
    assert labels(ImageFolder(path="*/d*/*.png", label_level=2)) == {"icons/dog/1.png": "dog"}
    assert labels(ImageFolder(path="icons/top.gif")) == {"top.gif": None}
    assert {row["path"]: from_cell(row["image"]) for row in rows(ImageFolder(path="icons"))} == ICONS
    with pytest.raises(ValueError, match="got 0, allowed are 1, 2"):
        ImageFolder(path="icons", label_level=0)
    with pytest.raises(DataError, match=r"suffix '\.txt', allowed are \.png, \.jpg"):
        ImageFolder(path="icons/dog/notes.txt").list()
    with pytest.raises(DataError, match=r"no \.png, .* file in this folder"):
        ImageFolder(path=str(tmp_path.joinpath("empty").mkdir() or tmp_path / "empty")).list()


def test_every_image_file_is_pinned_by_its_bytes(tmp_path: Path) -> None:
    path = write(tmp_path, "a/1.png", PNG)
    source = ImageFolder(path=str(tmp_path))
    files = source.pin()
    path.write_bytes(JPEG)
    assert source.pin()[0].digest() != files[0].digest()
    with pytest.raises(DataError, match=r"1\.png changed while it was read"):
        list(source.read(files, 10_000))
    (large,) = source.read(source.pin(), len(JPEG) - 1)
    assert isinstance(large, BadRow)
    assert large.reason == "too_large"
    assert (
        large.detail
        == f"{len(JPEG)} bytes, allowed {len(JPEG) - 1}; raise limits.row_bytes, or store the image smaller"
    )


def test_a_drawing_is_listed_so_that_its_row_is_not_lost_unsaid(tmp_path: Path) -> None:
    write(tmp_path, "a/1.SVG", b"<svg/>")
    assert [row["path"] for row in rows(ImageFolder(path=str(tmp_path)))] == ["a/1.SVG"]


CELLS: list[tuple[object, bytes | str]] = [
    ("img/1.png", PNG),
    ("./img//1.png", PNG),
    ("alias/1.png", PNG),
    ("img/.hidden.png", PNG),
    (to_cell(PNG), PNG),
    (to_cell(PNG).replace("image/png", "application/x"), PNG),
    (base64.b64encode(PNG).decode(), PNG),
    (base64.urlsafe_b64encode(JPEG).decode(), JPEG),
    ({"bytes": None, "path": "img/1.png"}, PNG),
    ({"bytes": base64.b64encode(JPEG).decode(), "path": "a.png"}, JPEG),
    ("../away.png", "image_outside"),
    ("img/../img/1.png", "image_outside"),
    ("/etc/hostname", "image_outside"),
    ("~/1.png", "image_outside"),
    ("https://host/1.png", "image_outside"),
    ("img/out.png", "image_outside"),
    ("img/none.png", "missing_image_file"),
    ("rows.jsonl", "missing_image_file"),
    ("", "missing_image_file"),
    ("img", "missing_image_file"),
    ("a\0b.png", "image_outside"),
    ("x" * 5000, "missing_image_file"),
    ("data:image/png;base64,!", "broken_image"),
    (5, "not_an_image"),
    (["img/1.png"], "not_an_image"),
    ({"url": "x"}, "not_an_image"),
]


def test_whatever_a_cell_was_it_holds_the_files_bytes_or_says_why_not(tmp_path: Path) -> None:
    write(tmp_path, "away.png", PNG)
    folder = tmp_path / "data"
    for name in ("img/1.png", "img/.hidden.png"):
        write(folder, name, PNG)
    os.symlink(tmp_path / "away.png", folder / "img" / "out.png")
    os.symlink("img", folder / "alias")
    write_jsonl(folder / "rows.jsonl", [{"icon": cell, "n": i} for i, (cell, _) in enumerate(CELLS)])
    source = Files(path=str(folder / "rows.jsonl"), images=("icon",))
    found = list(source.read(source.pin(), 1_000_000))
    for (cell, expected), row in zip(CELLS, found, strict=True):
        if isinstance(expected, str):
            assert isinstance(row, BadRow), cell
            assert row.reason == expected
            assert row.column == "icon"
        else:
            assert isinstance(row, Row), row
            assert row.values["icon"] == to_cell(expected), cell
    write_jsonl(folder / "rows.jsonl", [{"n": 1}, {"n": 2, "icon": None}])
    assert rows(source) == [{"n": 1}, {"n": 2, "icon": None}]


def test_an_image_that_a_row_names_is_part_of_what_the_data_is(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", [{"icon": "img/1.png"}])
    image = write(tmp_path, "img/1.png", PNG)
    source = Files(path=str(tmp_path / "rows.jsonl"), images=("icon",))
    files = source.pin()
    assert [Path(file.uri).name for file in files] == ["rows.jsonl", "1.png"]
    assert len(Files(path=source.path).pin()) == 1
    image.write_bytes(JPEG)
    assert identify(source.pin()) != identify(files)
    with pytest.raises(DataError, match=r"1\.png changed while it was read"):
        list(source.read(files, 10_000))
    image.unlink()
    assert bad(source)[1][0] == "missing_image_file"
    write(tmp_path, "img/1.png", PNG)
    assert bad(source, len(PNG) - 1)[1][0] == "too_large"
    assert "store the image smaller" in bad(source, len(PNG) - 1)[1][1]


def test_paths_count_from_the_rows_own_folder_or_the_one_that_is_named(tmp_path: Path) -> None:
    for folder, data in (("a", PNG), ("b", JPEG)):
        write_jsonl(tmp_path / folder / "rows.jsonl", [{"icon": "1.png", "folder": folder}])
        write(tmp_path, f"{folder}/1.png", data)
    write(tmp_path, "photos/1.png", PNG)
    own = rows(Files(path=f"{tmp_path}/*/rows.jsonl", images=("icon",)))
    assert {row["folder"]: from_cell(row["icon"]) for row in own} == {"a": PNG, "b": JPEG}
    named = rows(Files(path=str(tmp_path), images=("icon",), images_in=f"{tmp_path}/photos"))
    assert [from_cell(row["icon"]) for row in named] == [PNG, PNG]
    with pytest.raises(RecipeError, match="images_in: 's3://x/y', allowed is a folder beside the rows"):
        Files(path=str(tmp_path), images=("icon",), images_in="s3://x/y").list()
    with pytest.raises(DataError, match="no such folder"):
        Files(path=str(tmp_path), images=("icon",), images_in=f"{tmp_path}/absent").list()


def test_bytes_of_a_table_are_images_where_the_source_says_so(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    structs = [{"bytes": JPEG, "path": "x.jpg"}, {"bytes": None, "path": "1.png"}, None]
    parquet.write_table(pa.table({"plain": [PNG, None, b""], "struct": structs, "n": [1, 2, 3]}), path)
    write(tmp_path, "1.png", PNG)
    found = rows(Files(path=str(path), images=("plain", "struct")))
    assert [row["plain"] for row in found] == [to_cell(PNG), None, to_cell(b"")]
    assert [row["struct"] for row in found] == [to_cell(JPEG), to_cell(PNG), None]
    assert "an image? name it in source.images" in bad(Files(path=str(path)))[1][1]
    large = bad(Files(path=str(path), images=("plain", "struct")), 300)
    assert large[1][0] == "too_large"
    assert large[1][1].endswith("raise limits.row_bytes, or store the image smaller")


def test_datasets_with_an_image_feature_are_read(tmp_path: Path) -> None:
    from datasets import Dataset as Rows

    Rows.from_dict({"image": [noise(), noise(seed=1)], "label": ["a", "b"]}).save_to_disk(str(tmp_path / "saved"))
    found = rows(HuggingFace(path=str(tmp_path / "saved"), images=("image",)))
    assert [row["label"] for row in found] == ["a", "b"]
    assert all(str(row["image"]).startswith("data:image/png;base64,") for row in found)
    assert "name it in source.images" in bad(HuggingFace(path=str(tmp_path / "saved")))[1][1]


def test_a_bucket_and_a_folder_give_the_same_rows(bucket: Any, s3_endpoint: str, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "d/rows.jsonl", [{"icon": "dog/1.png"}, {"icon": "../x.png"}, {"icon": "none.png"}])
    for name, data in ICONS.items():
        write(tmp_path, f"d/{name}", data)
    for path in tmp_path.rglob("*.*"):
        bucket.put_object(Key=str(path.relative_to(tmp_path)), Body=path.read_bytes())
    there: dict[str, Any] = {"endpoint_url": s3_endpoint}
    for key in ("d/", "d/**/*.png"):
        remote = ImageFolder(path=f"s3://{bucket.name}/{key}", **there)
        assert rows(remote) == rows(ImageFolder(path=f"{tmp_path}/{key}"))
    remote = Files(path=f"s3://{bucket.name}/d/", images=("icon",), **there)
    local = Files(path=f"{tmp_path}/d", images=("icon",))
    pins = [source.pin() for source in (remote, local)]
    assert [file.sha256 for file in pins[0]] == [file.sha256 for file in pins[1]]
    for source, files in zip((remote, local), pins, strict=True):
        first, outside, missing = source.read(files, 10_000)
        assert isinstance(first, Row)
        assert first.values == {"icon": to_cell(PNG)}
        assert isinstance(outside, BadRow)
        assert isinstance(missing, BadRow)
        assert (outside.reason, missing.reason) == ("image_outside", "missing_image_file")


def test_recipes_without_images_are_the_work_they_were(tmp_path: Path) -> None:
    """What was hashed before there were images is hashed as it was."""
    said: dict[str, Any] = {"source": {"kind": "files", "path": "r"}, "format": {"kind": "plain_text", "text": "t"}}
    identified: Any = identify(Dataset.model_validate(said))
    assert identified["source"] == {
        "kind": "files",
        "path": "r",
        "endpoint_url": None,
        "settle_seconds": 0.0,
        "marker": None,
        "drop_columns": [],
    }
    assert "image_pixels" not in identified["limits"]
    other = {**said, "limits": {"image_pixels": PIXELS - 1}}
    assert digest(identify(Dataset.model_validate(other))) != digest(identified)
    assert "images" not in identify(HuggingFace(path="x"))  # type: ignore[operator]
