from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from ftlib.data.row_files import pin_file
from ftlib.data.sources import listing, pins
from ftlib.data.sources.files import Files
from ftlib.testing import write_jsonl
from ftlib.workspace import Workspace


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are read."""
    names: list[str] = []

    def read(path: Path) -> object:
        names.append(path.name)
        return pin_file(path)

    monkeypatch.setattr(listing, "pin_file", read)
    return names


def later(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + seconds)


def test_a_second_run_reads_what_is_new_and_no_more(
    tmp_path: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, work = Files(path=str(tmp_path / "rows")), Workspace(tmp_path / "work")
    for n in (1, 2):
        write_jsonl(tmp_path / "rows" / f"{n}.jsonl", [{"n": n}])
    later(monkeypatch, 60)
    first = pins.pin(source, work)
    assert (pins.pin(source, work), hashed) == (first, ["1.jsonl", "2.jsonl"])
    hashed.clear()
    write_jsonl(tmp_path / "rows" / "2.jsonl", [{"n": 22}])
    write_jsonl(tmp_path / "rows" / "3.jsonl", [{"n": 3}])
    os.remove(tmp_path / "rows" / "1.jsonl")
    pinned = pins.pin(source, work)
    assert hashed == ["2.jsonl", "3.jsonl"]
    assert pinned == source.pin()


def test_a_listing_that_was_made_before_is_pinned_as_it_was(tmp_path: Path) -> None:
    source, work = Files(path=str(tmp_path / "rows")), Workspace(tmp_path / "work")
    write_jsonl(tmp_path / "rows" / "1.jsonl", [{"n": 1}])
    listed = source.list()
    write_jsonl(tmp_path / "rows" / "2.jsonl", [{"n": 2}])
    assert [Path(file.uri).name for file in pins.pin(source, work, listed)] == ["1.jsonl"]


def test_what_is_remembered_may_be_deleted_or_damaged(tmp_path: Path) -> None:
    source, work = Files(path=str(tmp_path / "rows")), Workspace(tmp_path / "work")
    write_jsonl(tmp_path / "rows" / "1.jsonl", [{"n": 1}])
    first = pins.pin(source, work)
    (remembered,) = (work.root / "pins").iterdir()
    remembered.write_bytes(remembered.read_bytes()[:-5])
    assert pins.pin(source, work) == first
    shutil.rmtree(work.root)
    assert pins.pin(source, work) == first


def test_a_clock_that_was_ahead_is_no_witness(
    tmp_path: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, work = Files(path=str(tmp_path / "rows")), Workspace(tmp_path / "work")
    path = write_jsonl(tmp_path / "rows" / "1.jsonl", [{"n": 1}])
    before = path.stat()
    with monkeypatch.context() as wrong:
        later(wrong, 366 * 86400)
        first = pins.pin(source, work)
    write_jsonl(path, [{"n": 2}])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # by its name, place, size and date it is the same
    (again,) = pins.pin(source, work)
    assert again.version == first[0].version
    assert again.sha256 != first[0].sha256
    assert hashed == ["1.jsonl", "1.jsonl"]
