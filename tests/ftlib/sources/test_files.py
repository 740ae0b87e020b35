from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from ftlib.errors import DataError
from ftlib.rows import Row
from ftlib.sources.files import Files
from ftlib.testing import write_jsonl


def names(source: Files) -> list[str]:
    return [Path(file.uri).name for file in source.pin()]


def test_a_folder_lists_rows_below_it_and_nothing_hidden(tmp_path: Path) -> None:
    for name in ("a.jsonl", "deep/b.csv", "c.parquet", "d.jsonl.gz", "notes.txt", ".e.jsonl", "_f.csv", "_tmp/g.csv"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("x")
    assert sorted(names(Files(path=str(tmp_path)))) == ["a.jsonl", "b.csv", "c.parquet", "d.jsonl.gz"]


def test_a_glob_and_a_single_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.jsonl", "b.jsonl", "c.csv"):
        (tmp_path / name).write_text("x")
    assert names(Files(path=f"{tmp_path}/*.jsonl")) == ["a.jsonl", "b.jsonl"]
    monkeypatch.chdir(tmp_path)
    (pinned,) = Files(path="c.csv").pin()
    assert pinned.uri == str(tmp_path / "c.csv")
    assert (pinned.bytes, pinned.sha256) == (1, hashlib.sha256(b"x").hexdigest())


def test_a_file_whose_name_looks_like_a_glob_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "rows[1].jsonl").write_text("x")
    assert names(Files(path=str(tmp_path / "rows[1].jsonl"))) == ["rows[1].jsonl"]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("absent.jsonl", "no such file or folder"),
        ("absent/", "no such file or folder"),
        ("~nobody-of-this-name/rows.jsonl", "no such file or folder"),
        ("*.parquet", "no file matches this glob"),
        (".", r"no \.jsonl, .* file in this folder"),
        ("notes.txt", r"suffix '\.txt', allowed are"),
    ],
)
def test_nothing_to_read_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(DataError, match=message) as caught:
        Files(path=path).pin()
    assert "\n" not in str(caught.value)


def test_the_order_of_rows_does_not_depend_on_names(tmp_path: Path) -> None:
    one, two = write_jsonl(tmp_path / "1.jsonl", [{"n": 1}]), write_jsonl(tmp_path / "2.jsonl", [{"n": 2}])
    source = Files(path=str(tmp_path))
    before = [row.values for row in source.read(source.pin(), 100) if isinstance(row, Row)]
    os.rename(one, tmp_path / "9.jsonl")
    os.rename(two, tmp_path / "0.jsonl")
    assert [row.values for row in source.read(source.pin(), 100) if isinstance(row, Row)] == before
