from __future__ import annotations

import csv
import gzip
import io
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from ftlib.errors import DataError
from ftlib.row_files import pin_file, read_file
from ftlib.rows import BadRow, Row


def read(path: Path, row_bytes: int = 1000) -> list[Row | BadRow]:
    return list(read_file(pin_file(path), row_bytes))


def values(found: list[Row | BadRow]) -> list[dict[str, Any]]:
    return [row.values for row in found if isinstance(row, Row)]


def reasons(found: list[Row | BadRow]) -> list[tuple[int, str]]:
    return [(row.line, row.reason) for row in found if isinstance(row, BadRow)]


def test_broken_jsonl_lines_are_quarantined_by_line_number(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    lines = [
        b'\xef\xbb\xbf{"a": 1}',  # byte order mark
        b'{"a": "\xff"}',
        b'{"a": 1',
        b"[1, 2]",
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b"",
        b"   ",
        b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"a": ' + b"1" * 5000 + b"}",
        b'{"a": "' + b"x" * 300_000 + b'"}',
        b'"text"',
        b'{"a": 1, "b": {"c": 1, "c": 2}}',
        b'{"a": 2}',
    ]
    path.write_bytes(b"\r\n".join(lines))
    found = read(path, row_bytes=250_000)
    assert values(found) == [{"a": 1}, {"a": 2}]
    assert reasons(found) == [
        (2, "invalid_utf8"),
        (3, "broken_json"),
        (4, "not_an_object"),
        (5, "not_finite"),
        (6, "not_finite"),
        (9, "nested_too_deep"),
        (10, "broken_json"),
        (11, "too_large"),
        (12, "not_an_object"),
        (13, "broken_json"),
    ]
    assert [row.bytes for row in found if isinstance(row, BadRow) and row.reason == "too_large"] == [300_011]


def test_a_row_of_50_mb_is_quarantined_without_being_held(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    with path.open("wb") as stream:
        stream.write(b'{"a": 1}\n{"a": "')
        for _ in range(50):
            stream.write(b"x" * 1_000_000)
        stream.write(b'"}\n{"a": 2}\n')
    tracemalloc.start()
    found = read(path, row_bytes=1_000_000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert values(found) == [{"a": 1}, {"a": 2}]
    assert reasons(found) == [(2, "too_large")]
    assert peak < 10_000_000


@given(st.lists(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=20), max_size=3), max_size=8))
@settings(deadline=None, max_examples=60)
def test_jsonl_reads_what_json_reads(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]) -> None:
    path = tmp_path_factory.mktemp("jsonl") / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert values(read(path)) == [json.loads(json.dumps(row)) for row in rows]


cells = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=10)


@given(st.lists(st.tuples(cells, cells), max_size=8))
@settings(deadline=None, max_examples=60)
def test_csv_reads_what_the_csv_module_writes(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]
) -> None:
    path = tmp_path_factory.mktemp("csv") / "rows.csv"
    text = io.StringIO(newline="")
    writer = csv.writer(text, quoting=csv.QUOTE_ALL)
    writer.writerows([("a", "b"), *rows])
    path.write_bytes(text.getvalue().encode())
    assert values(read(path)) == [{"a": a, "b": b} for a, b in rows]


def test_broken_csv_records_are_quarantined_by_line_number(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(
        b"\xef\xbb\xbftext,label\r\n"
        b'"two\r\nlines",x\r\n'  # 2, 3
        b"one field\r\n"  # 4
        b"a,b,c\r\n"  # 5
        b"bad \xff byte,x\r\n"  # 6
        b'"closed" wrongly,x\r\n'  # 7
        b"empty label,\r\n"  # 8
        b'"never closed,x\r\n'  # 9
        b"good,y\r\n"  # 10
    )
    found = read(path)
    assert values(found) == [
        {"text": "two\r\nlines", "label": "x"},
        {"text": "empty label", "label": None},
        {"text": "good", "label": "y"},
    ]
    assert reasons(found) == [
        (4, "wrong_field_count"),
        (5, "wrong_field_count"),
        (6, "invalid_utf8"),
        (7, "broken_csv"),
        (9, "broken_csv"),
    ]


def test_an_unclosed_quote_costs_one_row_however_long_the_file_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('text,label\n"open,x\n' + "".join(f"row {i},y\n" for i in range(2000)))
    found = read(path, row_bytes=500)
    assert reasons(found) == [(2, "broken_csv")]
    assert [row["text"] for row in values(found)] == [f"row {i}" for i in range(2000)]


def test_a_csv_header_must_name_each_column_once(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("a,b,a\n1,2,3\n")
    with pytest.raises(DataError, match="more than one column 'a'; rename them"):
        read(path)


def test_parquet_cells_come_as_json_values(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    table = pa.table(
        {
            "text": ["a", None],
            "count": pa.array([1, 2], pa.int16()),
            "score": [0.5, float("nan")],
            "tags": [["x"], []],
            "when": pa.array([0, 1], pa.timestamp("s")),
            "kind": pa.array(["u", "v"]).dictionary_encode(),
        }
    )
    parquet.write_table(table, path)
    assert values(read(path)) == [
        {"text": "a", "count": 1, "score": 0.5, "tags": ["x"], "when": "1970-01-01T00:00:00", "kind": "u"},
        {"text": None, "count": 2, "score": None, "tags": [], "when": "1970-01-01T00:00:01", "kind": "v"},
    ]


def test_parquet_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    parquet.write_table(pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"]), path)
    with pytest.raises(DataError, match="more than one column 'a'"):
        read(path)


def test_bytes_in_parquet_are_quarantined_with_the_column_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    parquet.write_table(pa.table({"image": [b"\x00"]}), path)
    (found,) = read(path)
    assert isinstance(found, BadRow)
    assert found.reason == "binary_value"
    assert "'image'" in found.detail


@pytest.mark.parametrize("data", [b"", b"PAR1 no parquet", b"PAR1" + b"\0" * 100 + b"PAR1"])
def test_an_unreadable_parquet_file_is_one_clear_line(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "rows.parquet"
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"rows\.parquet cannot be read as parquet") as caught:
        read(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_a_file_that_changes_between_pin_and_read_fails(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"rows{suffix}"

    def write(text: str) -> None:
        if suffix == ".parquet":
            parquet.write_table(pa.table({"a": [text]}), path)
        else:
            path.write_text(f'{{"a": "{text}"}}\n' if suffix == ".jsonl" else f"a\n{text}\n")

    write("before")
    pinned = pin_file(path)
    write("later!")
    with pytest.raises(DataError, match="changed while it was read"):
        list(read_file(pinned, 1000))


def test_gzip_is_read_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    whole = gzip.compress(b'{"a": 1}\n' * 1000)
    path.write_bytes(whole)
    assert len(values(read(path))) == 1000
    path.write_bytes(whole[:-20])
    with pytest.raises(DataError, match="damaged gzip"):
        read(path)


def test_utf16_is_one_error_and_not_a_quarantine_of_everything(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n', encoding="utf-16")
    with pytest.raises(DataError, match="UTF-16, allowed is UTF-8"):
        read(path)


def test_a_file_that_vanished_is_one_clear_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n')
    pinned = pin_file(path)
    path.unlink()
    with pytest.raises(DataError, match="No such file"):
        list(read_file(pinned, 1000))
    with pytest.raises(DataError, match="No such file"):
        pin_file(path)
