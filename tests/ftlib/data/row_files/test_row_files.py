from __future__ import annotations

import csv
import gzip
import io
import json
import tracemalloc
import uuid
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from ftlib.data.row_files import pin_file, read_file
from ftlib.data.row_files.cells import rows_of
from ftlib.data.row_files.jsonl import parse_line
from ftlib.data.rows import BadRow, Row
from ftlib.errors import DataError


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
@settings(max_examples=60)
def test_jsonl_reads_what_json_reads(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]) -> None:
    path = tmp_path_factory.mktemp("jsonl") / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert values(read(path)) == [json.loads(json.dumps(row)) for row in rows]


cells = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=10)


@given(st.lists(st.tuples(cells, cells), max_size=8))
@settings(max_examples=60)
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


def test_zstd_is_read_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv.zst"
    codec = pa.Codec("zstd")
    frames = [b"a,b\n1,x\n", b"2,y\n" * 1000]
    whole = b"".join(codec.compress(frame, asbytes=True) for frame in frames)  # a file may hold several frames
    path.write_bytes(whole)
    assert len(values(read(path))) == 1001
    for damaged in (whole[:-3], b"no \0 zstd at all", whole[:20] + b"\0\0\0\0" + whole[24:]):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="damaged zstd") as caught:
            read(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
@pytest.mark.parametrize("piece", [b"x" * 1_000_000, (b'{"a": "' + b"x" * 99_990 + b'"}\n') * 10])
def test_a_bomb_stops_early(tmp_path: Path, suffix: str, piece: bytes) -> None:
    path = tmp_path / f"rows.jsonl{suffix}"
    with pa.CompressedOutputStream(str(path), "gzip" if suffix == ".gz" else "zstd") as stream:
        for _ in range(300):  # 300 MB of one line, or of rows
            stream.write(piece)
    pinned, read_bytes = pin_file(path), 0
    assert pinned.bytes < 2_000_000
    tracemalloc.start()
    rows = read_file(pinned, 1_000_000)

    def read_all() -> None:
        nonlocal read_bytes
        for row in rows:
            read_bytes += row.bytes

    with pytest.raises(DataError, match=r"unpacks to more than 200 times its .* give it unpacked"):
        read_all()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert read_bytes < (70 << 20) + 200 * pinned.bytes
    assert peak < 20_000_000


def test_a_parquet_bomb_stops_early(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    text = pa.DictionaryArray.from_arrays(pa.array([0] * 40_000, pa.int32()), ["x" * 900_000])
    parquet.write_table(pa.table({"text": text}), path)  # 36 GB of text
    assert path.stat().st_size < 100_000
    before, rows, held = pa.total_allocated_bytes(), read_file(pin_file(path), 1_000_000), [0]

    def read_all() -> None:
        held.extend(pa.total_allocated_bytes() - before for _ in rows)

    with pytest.raises(DataError, match="unpacks to more than 200 times"):
        read_all()
    assert max(held) < 50_000_000


def test_a_parquet_row_that_is_too_large_is_quarantined_and_the_others_are_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    texts = ["a", "b" * 2000, "c", None, "d" * 3000, "e" * 4000]
    parquet.write_table(pa.table({"text": texts, "n": range(6)}), path)
    found = read(path, row_bytes=1000)
    assert values(found) == [{"text": "a", "n": 0}, {"text": "c", "n": 2}, {"text": None, "n": 3}]
    assert reasons(found) == [(2, "too_large"), (5, "too_large"), (6, "too_large")]


@given(st.lists(st.none() | st.text(st.characters(exclude_categories=["Cs"])), max_size=30), st.integers(1, 9))
@settings(max_examples=60)
def test_parquet_reads_what_pyarrow_reads(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str | None], group: int
) -> None:
    path = tmp_path_factory.mktemp("parquet") / "rows.parquet"
    parquet.write_table(pa.table({"t": pa.array(texts, pa.string())}), path, row_group_size=group)
    assert values(read(path)) == parquet.read_table(path).to_pylist()


def test_bytes_in_a_text_column_of_a_table_are_quarantined(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    broken = pa.array([b"good", b"\xff\xfe", b"fine"]).cast(pa.binary())
    text = pa.StringArray.from_buffers(3, *broken.buffers()[1:])
    parquet.write_table(pa.table({"text": text, "n": [1, 2, 3]}), path)
    found = read(path)
    assert values(found) == [{"text": "good", "n": 1}, {"text": "fine", "n": 3}]
    assert reasons(found) == [(2, "invalid_utf8")]
    assert [row.column for row in found if isinstance(row, BadRow)] == ["text"]


def test_a_table_of_ten_thousand_columns_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    parquet.write_table(pa.table({f"c{i}": [1] for i in range(10_001)}), path)
    with pytest.raises(DataError, match="has 10001 columns, allowed 10000"):
        read(path)


def test_a_table_that_is_nested_too_deep_is_refused(tmp_path: Path) -> None:
    path, kind = tmp_path / "rows.parquet", pa.int64()
    for _ in range(40):
        kind = pa.struct([("a", kind)])
    parquet.write_table(pa.table({"a": pa.nulls(1, kind)}), path)
    with pytest.raises(DataError, match="nested 40 levels deep, allowed 32"):
        read(path)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@st.composite
def damaged_lines(draw: st.DrawFn) -> bytes:
    """A JSON object, spelt in some way, with a few bytes taken out, put in or copied."""
    ascii_only, separators = draw(st.booleans()), draw(st.sampled_from([(",", ":"), (", ", " : ")]))
    value = draw(st.dictionaries(st.text(max_size=4), json_values, max_size=4))
    text = json.dumps(value, ensure_ascii=ascii_only, separators=separators)
    line = bytearray(text.encode("utf-8", "surrogatepass"))
    for _ in range(draw(st.integers(0, 2))):
        at, end = draw(st.integers(0, len(line))), draw(st.integers(0, len(line)))
        new = draw(
            st.sampled_from([b"", b'"', b"\\", b"\\u0022", b":", b",", b"0", b"e9", b"\xff", b"{}", b'"a":1,', b"-"])
        )
        line[at : draw(st.sampled_from([at, at + 1, max(at, end)]))] = new
    return bytes(line).replace(b"\n", b" ").replace(b"\r", b" ")


@pytest.mark.slow
@given(st.lists(damaged_lines(), max_size=12))
@settings(max_examples=150)
def test_the_compiled_decoder_finds_what_the_json_module_finds(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]
) -> None:
    path = tmp_path_factory.mktemp("differential") / "rows.jsonl"
    path.write_bytes(b"{}\n" + b"".join(line + b"\n" for line in lines))  # the first line keeps UTF-16's mark away
    slow = [
        parse_line((i, len(line) + 1, line + b"\n"), str(path), 10_000) for i, line in enumerate([b"{}", *lines], 1)
    ]
    assert repr(read(path, 10_000)) == repr([found for found in slow if found is not None])


@pytest.mark.parametrize(
    "line",
    [
        b'{"a": 1, "a": 2}',
        b'{"a": "x", "\\u0061": "x"}',
        b'{"a": {"b": [{"c": "\\\\", "c": 1}]}}',
        b'{"a": "\\"", "a" : "\\\\\\""}',
        b'{"a": [], "b": [{"": 1, "": 1}]}',
    ],
)
def test_a_name_that_is_there_twice_is_found_however_it_is_written(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(line)
    (found,) = read(path)
    assert isinstance(found, BadRow)
    assert found.reason == "broken_json"
    assert "is there twice" in found.detail


@pytest.mark.parametrize("depth", [100, 300, 600, 900])
def test_a_row_as_deep_as_the_json_module_reads_is_read(tmp_path: Path, depth: int) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": ' + "[" * depth + '"x"' + "]" * depth + "}\n")
    found = read(path, 10_000)
    assert len(found) == 1
    assert isinstance(found[0], Row) or found[0].reason == "nested_too_deep"
    assert isinstance(found[0], Row) or depth > 600


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


DAY, ERA = 86_400, 719_162
"""Seconds of a day; days from 0001-01-01 to 1970-01-01."""


def of(kind: pa.DataType, numbers: list[int]) -> pa.Array:
    return pa.array(numbers, pa.int32() if kind.bit_width == 32 else pa.int64()).view(kind)


BAD = object()
MAPS = pa.map_(pa.string(), pa.int64())


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (of(pa.date32(), [0, 2_932_897, -ERA - 1]), ["1970-01-01", "10000-01-01", "0000-12-31"]),
        (of(pa.date32(), [0, 2**31 - 1, 1]), ["1970-01-01", BAD, "1970-01-02"]),
        (of(pa.date64(), [0, 2_932_897 * DAY * 1000, 2**62]), ["1970-01-01", "10000-01-01", BAD]),
        (of(pa.timestamp("s"), [0, 2_932_897 * DAY, 2**62]), ["1970-01-01T00:00:00", "10000-01-01T00:00:00", BAD]),
        (of(pa.timestamp("us"), [1, 0, 2_932_897 * DAY * 10**6 + 500_000]),
         ["1970-01-01T00:00:00.000001", "1970-01-01T00:00:00", "10000-01-01T00:00:00.500000"]),
        (of(pa.timestamp("ns"), [1, 1000, 0]),
         ["1970-01-01T00:00:00.000000001", "1970-01-01T00:00:00.000001", "1970-01-01T00:00:00"]),
        (of(pa.timestamp("ms", "Mars/Phobos"), [0, 1, 2]),
         ["1970-01-01T00:00:00Z", "1970-01-01T00:00:00.001000Z", "1970-01-01T00:00:00.002000Z"]),
        (of(pa.timestamp("s", "+02:00"), [0, 2_932_897 * DAY, 1]),
         ["1970-01-01T02:00:00+02:00", "10000-01-01T00:00:00Z", "1970-01-01T02:00:01+02:00"]),
        (of(pa.time64("ns"), [1, 86_399_999_999_999, 1000]),
         ["00:00:00.000000001", "23:59:59.999999999", "00:00:00.000001"]),
        (of(pa.time64("us"), [-5, 10**15, 0]), [BAD, BAD, "00:00:00"]),
        (of(pa.duration("s"), [2**62, 0, 1]), [BAD, "0:00:00", "0:00:01"]),
        (pa.array([pa.MonthDayNano([1, 2, 3]), None, pa.MonthDayNano([0, 0, -1])]), [[1, 2, 3], None, [0, 0, -1]]),
        (pa.array([1.5, float("nan"), -0.25], pa.float16()), [1.5, None, -0.25]),
        (pa.array([[("a", 1), ("a", 2)], [], None], MAPS), [[["a", 1], ["a", 2]], [], None]),
        (pa.ListArray.from_arrays([0, 1, 3, 3], of(pa.date32(), [0, 2_932_897, 1])),
         [["1970-01-01"], ["10000-01-01", "1970-01-02"], []]),
        (pa.MapArray.from_arrays([0, 1, 1, 2], ["k", "l"], of(pa.time64("ns"), [1, -1])),
         [[["k", "00:00:00.000000001"]], [], BAD]),
        (pa.StructArray.from_arrays([of(pa.time64("ns"), [1, 0, -1])], ["t"]),
         [{"t": "00:00:00.000000001"}, {"t": "00:00:00"}, BAD]),
        (pa.StructArray.from_arrays([pa.array([1, 2, 3]), pa.array([1, 2, 3])], ["a", "a"]), [BAD] * 3),
        (pa.DictionaryArray.from_arrays(pa.array([0, None, 1]), pa.array(["a", None])), ["a", None, None]),
        (of(pa.date32(), [2_932_897, 0, 0]).dictionary_encode(), ["10000-01-01", "1970-01-01", "1970-01-01"]),
        (pa.array([[b"x"], [], [b"y"]], pa.list_(pa.binary())), [BAD, [], BAD]),
        (pa.array([b"x", None, b""], pa.binary_view()), [BAD, None, BAD]),
        (pa.ExtensionArray.from_storage(pa.uuid(), pa.array([bytes(16)] * 3, pa.binary(16))),
         [str(uuid.UUID(int=0))] * 3),
        (pa.ExtensionArray.from_storage(
            pa.fixed_shape_tensor(pa.float32(), [1, 2]), pa.array([[1, 2], [3, 4], None], pa.list_(pa.float32(), 2))),
         [[1, 2], [3, 4], None]),
    ],
)  # fmt: skip
def test_a_cell_that_python_cannot_hold_is_exact_text_or_one_bad_row(column: pa.Array, expected: list[Any]) -> None:
    """Dates by counting days, the others by hand: never cut, never wrapped, and never a traceback."""
    found = list(rows_of(pa.record_batch({"text": list("abc"), "odd": column}), {}, "rows", 7, 9))
    assert [row.line for row in found] == [8, 9, 10]
    assert [row.values["odd"] if isinstance(row, Row) else BAD for row in found] == expected
    for bad in (row for row in found if isinstance(row, BadRow)):
        assert (bad.column, bad.reason in ("unreadable_value", "binary_value")) == ("odd", True)
        assert bad.detail.startswith("column 'odd' holds")
        assert "\n" not in bad.detail


def test_a_date_beyond_9999_in_a_file_costs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    parquet.write_table(pa.table({"text": ["a", "b"], "until": of(pa.date32(), [2_932_897, 0])}), path)
    assert values(read(path)) == [{"text": "a", "until": "10000-01-01"}, {"text": "b", "until": "1970-01-01"}]


def test_dates_of_old_spark_files_do_not_wrap(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    when = of(pa.timestamp("us"), [0, 253_402_214_400_000_000, -62_135_596_800_000_000])
    parquet.write_table(pa.table({"when": when}), path, use_deprecated_int96_timestamps=True)
    assert [row["when"] for row in values(read(path))] == [
        "1970-01-01T00:00:00", "9999-12-31T00:00:00", "0001-01-01T00:00:00"
    ]  # fmt: skip


def test_one_huge_list_costs_its_own_row_alone(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    lists = [[1.0], [0.5] * 100_000, [2.0, 3.0], None]
    parquet.write_table(pa.table({"text": list("abcd"), "embedding": lists}), path)
    found = read(path, row_bytes=10_000)
    assert reasons(found) == [(2, "too_large")]
    assert [row["text"] for row in values(found)] == ["a", "c", "d"]
    (bad,) = [row for row in found if isinstance(row, BadRow)]
    assert bad.detail == (
        "800001 bytes, allowed 10000, most in column 'embedding'; raise limits.row_bytes, or leave the column out: "
        "source.drop_columns"
    )


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".csv", ".parquet"])
def test_columns_that_are_dropped_are_not_looked_at(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"rows{suffix}"
    if suffix == ".csv":
        path.write_bytes(b"text,odd,a.b\na,\xff,1\nb,fine,2\n")
    elif suffix == ".parquet":
        parquet.write_table(
            pa.table({"text": ["a", "b"], "odd": [b"\xff" * 5000, b""], "a.b": ["1", "2"], "a": [1, 2]}), path
        )
    else:
        lines = b'{"text": "a", "odd": NaN, "a.b": "1"}\n{"text": "b", "odd": [1, {"x": -Infinity}], "a.b": "2"}\n'
        path.write_bytes(gzip.compress(lines) if suffix.endswith("gz") else lines)
    drop = frozenset({"odd", "a", "absent"})
    assert values(list(read_file(pin_file(path), 1000, drop))) == [{"text": "a", "a.b": "1"}, {"text": "b", "a.b": "2"}]
    assert reasons(read(path)) == {
        ".csv": [(2, "invalid_utf8")],
        ".parquet": [(1, "too_large"), (2, "binary_value")],
    }.get(suffix, [(1, "not_finite"), (2, "not_finite")])


def test_a_table_says_the_names_of_its_classes(tmp_path: Path) -> None:
    from datasets import ClassLabel, Dataset, Features, List, Value, load_dataset

    names = ClassLabel(names=["zeta", "alpha", "mid"])
    features = Features({
        "text": Value("string"), "label": names, "tags": List(names), "deep": List(List(names)), "n": Value("int64"),
        "meta": {"kind": names, "more": [{"kinds": List(names, 2), "_type": Value("string")}]},
        "free": List(Value("int64")),
    })  # fmt: skip
    rows = {
        "text": ["a", "b"], "label": [0, -1], "tags": [[1, 2, -1], []], "deep": [[[0], []], None], "n": [0, 1],
        "meta": [{"kind": 2, "more": [{"kinds": [0, 1], "_type": "t"}]}, None], "free": [[0, 1], [2]],
    }  # fmt: skip
    saved = Dataset.from_dict(rows, features=features)
    saved.to_parquet(tmp_path / "rows.parquet")
    found = read(tmp_path / "rows.parquet", 10_000)
    assert values(found) == [
        {"text": "a", "label": "zeta", "tags": ["alpha", "mid", None], "deep": [["zeta"], []], "n": 0,
         "meta": {"kind": "mid", "more": [{"kinds": ["zeta", "alpha"], "_type": "t"}]}, "free": [0, 1]},
        {"text": "b", "label": None, "tags": [], "deep": None, "n": 1, "meta": None, "free": [2]},
    ]  # fmt: skip
    stock = load_dataset(
        "parquet", data_files=str(tmp_path / "rows.parquet"), split="train", cache_dir=tmp_path / "cache"
    )
    assert [names.int2str(label) for label in stock[0]["tags"][:2]] == values(found)[0]["tags"][:2]
    table = parquet.read_table(tmp_path / "rows.parquet")
    changed = table.set_column(1, "label", pa.array([7, 1])).replace_schema_metadata(table.schema.metadata)
    parquet.write_table(changed, tmp_path / "rows.parquet")
    found = read(tmp_path / "rows.parquet", 10_000)
    assert reasons(found) == [(1, "not_allowed")]
    assert "column 'label' holds class 7, the 3 names are for 0 to 2" in repr(found[0])
