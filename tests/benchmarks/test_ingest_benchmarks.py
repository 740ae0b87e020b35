"""The benchmark's own rows and judgements, on few rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.ingest_readers import BAD, fate, make_rows, spoil, write_csv, write_jsonl
from benchmarks.readers import COLUMNS, JSONL, ours, pyarrow_csv, pyarrow_json


@pytest.mark.parametrize(("write", "suffix"), [(write_jsonl, ".jsonl"), (write_csv, ".csv")])
def test_ours_names_every_spoilt_row_and_no_other(tmp_path: Path, write: Callable[..., None], suffix: str) -> None:
    rows = make_rows(1000)
    dirty, bad = spoil(rows)
    assert len(bad) == sum(BAD.values()) == 192
    path = tmp_path / f"dirty{suffix}"
    write(path, dirty)
    found = ours(path, COLUMNS)
    shift = 1 if suffix == ".csv" else 0
    assert found == (808, sorted(line + shift for line in bad))
    write(tmp_path / f"clean{suffix}", rows)
    assert ours(tmp_path / f"clean{suffix}", COLUMNS) == (1000, [])


def test_every_reader_of_lines_agrees_on_what_is_bad(tmp_path: Path) -> None:
    dirty, bad = spoil(make_rows(1000))
    write_jsonl(tmp_path / "dirty.jsonl", dirty)
    for name in ("reglage, schema", "reglage, whole stage", "msgspec by line", "pydantic by line"):
        rows, refused = JSONL[name](tmp_path / "dirty.jsonl")
        assert (rows, refused) == (808, sorted(bad)), name


def test_pyarrow_reads_the_clean_files_whole(tmp_path: Path) -> None:
    rows = make_rows(50)
    write_jsonl(tmp_path / "clean.jsonl", rows)
    write_csv(tmp_path / "clean.csv", rows)
    assert pyarrow_json(tmp_path / "clean.jsonl")[0] == pyarrow_csv(tmp_path / "clean.csv")[0] == 50
    size = len((tmp_path / "clean.jsonl").read_bytes()) / 50
    assert 280 < size < 330


def test_a_fate_counts_what_was_let_through() -> None:
    def said(**outcome: Any) -> str:
        return fate(outcome, {2, 5}, 10)

    assert said(rows=8, refused=[2, 5]) == "2 of 2 named by line, 0 let through"
    assert said(rows=9, refused=[2]) == "1 of 2 named by line, 1 let through"
    assert said(rows=10, refused=None) == "0 of 2 named by line, 2 let through"
    assert said(rows=7, refused=[2, 5, 6]).endswith("1 wrongly refused")
    assert said(failed="ArrowInvalid: no") == "the whole file fails: ArrowInvalid: no"
