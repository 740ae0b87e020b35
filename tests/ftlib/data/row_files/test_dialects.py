"""Files that are not what their names say, or csv and JSON in another dialect: each says what it is and what to do."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import os
import shutil
import sqlite3
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import feather, orc, parquet

from ftlib.data.row_files import pin_file, read_file
from ftlib.data.rows import BadRow, Row, need_column
from ftlib.errors import DataError

ROWS: list[dict[str, Any]] = [{"text": f"row {i}, café", "label": "ab"[i % 2]} for i in range(30)]
JSONL = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()


def delimited(separator: str = ",") -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, ("text", "label"), delimiter=separator)
    writer.writeheader()
    writer.writerows(ROWS)
    return text.getvalue().encode()


CSV = delimited()


def read(path: Path, row_bytes: int = 100_000) -> list[Row | BadRow]:
    return list(read_file(pin_file(path), row_bytes))


def values(found: list[Row | BadRow]) -> list[dict[str, Any]]:
    return [row.values for row in found if isinstance(row, Row)]


def bad(found: list[Row | BadRow]) -> list[tuple[int, str]]:
    return [(row.line, row.reason) for row in found if isinstance(row, BadRow)]


def refusal(path: Path, data: bytes, row_bytes: int = 100_000) -> str:
    path.write_bytes(data)
    with pytest.raises(DataError) as caught:
        read(path, row_bytes)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    return message.removeprefix(str(path))


def to_file(write: Callable[[Any, io.BytesIO], Any]) -> bytes:
    stream = io.BytesIO()
    write(pa.Table.from_pylist(ROWS), stream)
    return stream.getvalue()


def workbook() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("[Content_Types].xml", "<Types/>")
        file.writestr("xl/workbook.xml", "<workbook/>")
    return stream.getvalue()


def archive(write: Callable[[io.BytesIO], None]) -> bytes:
    stream = io.BytesIO()
    write(stream)
    return stream.getvalue()


def zipped(stream: io.BytesIO) -> None:
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("rows.csv", CSV)


def tarred(stream: io.BytesIO) -> None:
    with tarfile.open(fileobj=stream, mode="w") as file:
        info = tarfile.TarInfo("rows.csv")
        info.size = len(CSV)
        file.addfile(info, io.BytesIO(CSV))


def database() -> bytes:
    connection = sqlite3.connect(":memory:")
    connection.execute("create table rows (text, label)")
    return connection.serialize()


PARQUET = to_file(parquet.write_table)
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
ZSTD = pa.Codec("zstd").compress(CSV, asbytes=True)


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("rows.jsonl", gzip.compress(JSONL), "is compressed with gzip; rename it so that its name ends with .gz"),
        ("rows.csv", ZSTD, "is compressed with zstd; rename it so that its name ends with .zst"),
        ("rows.csv", bz2.compress(CSV), "is compressed with bzip2; unpack it"),
        ("rows.csv", lzma.compress(CSV), "is compressed with xz; unpack it"),
        ("rows.csv", PARQUET, "is parquet; rename it so that its name ends with .parquet"),
        ("rows.csv.gz", gzip.compress(PARQUET), "unpacks to what is parquet; unpack it"),
        ("rows.csv.gz", gzip.compress(gzip.compress(CSV)), "compressed with gzip; unpack it once"),
        ("rows.csv.gz", gzip.compress(archive(tarred)), "unpacks to what is a tar archive; unpack it"),
        ("rows.csv", to_file(feather.write_feather), "an Arrow (Feather) file; write it as parquet"),
        ("rows.jsonl", to_file(orc.write_table), "an ORC file; write it as parquet"),
        ("rows.jsonl", b"Obj\x01\x04\x16avro.schema", "an Avro file"),
        ("rows.csv", database(), "a SQLite database; export the table"),
        ("rows.csv", workbook(), "an Excel workbook; save it as csv in UTF-8"),
        ("rows.csv", archive(zipped), "a zip archive; unpack it"),
        ("rows.jsonl", b"\x80\x04\x95\x10\0", "a Python pickle, which is never opened"),
        ("rows.jsonl", b"%PDF-1.7\n", "a PDF"),
        ("rows.csv", b"\r\n<!DOCTYPE HTML>\n<html>", "an HTML page and no rows"),
        ("rows.jsonl", b'<?xml version="1.0"?>\n<Error><Code>NoSuchKey', "an XML document and no rows"),
        ("rows.csv", LFS, "a git-lfs pointer to the rows; fetch them: git lfs pull"),
        ("rows.parquet", LFS, "a git-lfs pointer to the rows, not parquet"),
        ("rows.csv.gz", LFS, "a git-lfs pointer to the rows, not compressed with gzip"),
        ("rows.csv.gz", CSV, "is plain text, not compressed with gzip as its name says; take .gz off its name"),
        ("rows.jsonl.zst", JSONL, "is plain text, not compressed with zstd as its name says; take .zst off its name"),
        ("rows.csv.gz", ZSTD, "compressed with zstd, not with gzip as its name says; let its name end with .zst"),
        ("rows.parquet", JSONL, "is JSON text, not parquet as its name says; let its name end with .jsonl"),
        ("rows.parquet", CSV, "is plain text, not parquet as its name says; let its name end with .csv"),
        ("rows.parquet", to_file(feather.write_feather), "an Arrow (Feather) file, not parquet"),
        ("rows.csv", JSONL, "is JSON, not csv as its name says; let its name end with .jsonl"),
        ("rows.csv", b"\0" * 5000, "nothing but NUL bytes at its beginning"),
        ("rows.csv", b"sep=;\r\ntext;label\r\na;b\r\n", "begins with 'sep=;', which is for Excel alone"),
        ("rows.csv", "texté,label\na,b\n".encode("cp1252"), ":1: the header is not UTF-8"),
    ],
)
def test_a_file_of_another_format_is_named_with_the_remedy(tmp_path: Path, name: str, data: bytes, said: str) -> None:
    assert said in refusal(tmp_path / name, data)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("rows.csv", b"PAR1,PAR2\n1,2\n3,4\n"),
        ("rows.csv", b"ORC,FEA1\n1,2\n3,4\n"),
        ("rows.csv", b"BZh,Rar!\n1,2\n3,4\n"),
        ("rows.csv", b"text\na;b\nc|d\n"),
        ("rows.csv", b"text; raw\nab\ncd\n"),
        ("rows.csv", b'"text;raw",label\na;b,c\nd,e\n'),
        ("rows.csv", b"text,label\na\0b,c\nd,e\n"),
        ("rows.csv", b"text,label\r\na,b\r\nc,d"),
        ("rows.csv", b'text,label\n"a\rb",c\nd,e\n'),
        ("rows.jsonl", b'{"data": [1, 2]}\n{"data": []}\n'),
        ("rows.jsonl", b'{"data": [{"a": 1}, {"a": 2}]}\n{"data": []}\n'),
        ("rows.jsonl", b'{"text": {"0": "a"}}\n{"text": "b"}\n'),
        ("rows.jsonl", b'\xef\xbb\xbf{"a": 1}\n\xef\xbb\xbf{"a": 2}\n'),
    ],
)
def test_rows_that_only_look_like_something_else_are_read(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    found = read(tmp_path / name)
    assert len(values(found)) == 2
    assert bad(found) == []


def test_one_answer_in_a_file_of_its_own_is_a_row(tmp_path: Path) -> None:
    row = {
        "question": "who?",
        "context": "Ada did",
        "answers": [{"text": "Ada", "start": 0}, {"text": "A", "start": 0}],
    }
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    assert values(read(tmp_path / "rows.jsonl")) == [row]


def converted(message: str, folder: Path) -> list[dict[str, Any]]:
    """Run the command that a message gives, and read what it writes."""
    command = message.partition("convert it: ")[2]
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    subprocess.run(
        ["bash", "-c", command], cwd=folder, check=True, env={**os.environ, "PATH": path, "LC_ALL": "C.UTF-8"}
    )
    (new,) = folder.glob("new.*")
    found = read(new)
    assert bad(found) == []
    return values(found)


LARGE = [{"text": "x" * 200, "label": "a"} for _ in range(1000)]


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("semi.csv", delimited(";"), "columns between semicolons"),
        ("tab.csv", delimited("\t"), "columns between tabs"),
        ("bar.csv", delimited("|"), "columns between bars"),
        ("my rows.csv.gz", gzip.compress(delimited(";")), "columns between semicolons"),
        ("cr.csv", CSV.replace(b"\r\n", b"\r"), "lines end with CR alone"),
        ("cr.jsonl", JSONL.replace(b"\n", b"\r"), "lines end with CR alone"),
        ("wide.csv", CSV.decode().encode("utf-16"), "is UTF-16, allowed is UTF-8"),
        ("wide.csv", CSV.decode().encode("utf-16-le"), "is UTF-16LE"),
        ("wide.jsonl", JSONL.decode().encode("utf-16-be"), "is UTF-16BE"),
        ("wide.csv.gz", gzip.compress(CSV.decode().encode("utf-32-le")), "UTF-32LE"),
        ("list.jsonl", json.dumps(ROWS).encode(), "one JSON document, a list"),
        ("list.jsonl", json.dumps(ROWS, indent=1).encode(), "one JSON document, a list"),
        ("list.jsonl.gz", gzip.compress(json.dumps(ROWS, indent=1).encode()), "one JSON document, a list"),
        ("list.jsonl", b"[\n" + JSONL.strip().replace(b"\n", b",\n") + b"\n]\n", "one JSON document, a list"),
        ("data.jsonl", json.dumps({"data": ROWS}).encode(), "its rows under 'data'"),
        ("data.ndjson", json.dumps({"version": "1", "data": ROWS}, indent=1).encode(), "its rows under 'data'"),
        ("objects.jsonl", "\n".join(json.dumps(row, indent=1) for row in ROWS).encode(), "objects over several lines"),
        ("one.jsonl", json.dumps(ROWS[0], indent=1).encode(), "objects over several lines"),
    ],
)
def test_another_dialect_is_named_and_its_command_gives_the_rows(
    tmp_path: Path, name: str, data: bytes, said: str
) -> None:
    message = refusal(tmp_path / name, data)
    assert said in message
    if "jq " in message and shutil.which("jq") is None:
        return
    assert converted(message, tmp_path) == (ROWS[:1] if name == "one.jsonl" else ROWS)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (json.dumps(LARGE), "one JSON document, a list"),
        (json.dumps({"rows": LARGE}), "its rows under 'rows'"),
        (json.dumps({"version": 1, "rows": LARGE}, indent=1), "its rows under 'rows'"),
        ("\n".join(json.dumps(row, indent=1) for row in LARGE), "objects over several lines"),
        (pd.DataFrame(LARGE).to_json(), "DataFrame.to_json(path, orient='records', lines=True)"),
        (pd.DataFrame(ROWS).to_json(), "DataFrame.to_json(path, orient='records', lines=True)"),
        (pd.DataFrame(ROWS).to_json(orient="split"), "orient='records', lines=True"),
        (pd.DataFrame(ROWS).to_json(orient="records"), "one JSON document, a list"),
    ],
)
def test_a_document_is_known_by_its_beginning_however_long_it_is(tmp_path: Path, data: str, said: str) -> None:
    assert said in refusal(tmp_path / "rows.jsonl", data.encode(), row_bytes=10_000)


@pytest.mark.parametrize("first", [b"{", b"[", b'{"text": "a', b'{"a":\n1}', b"Downloading...", b'["a", "b"]'])
def test_a_broken_first_line_costs_no_other(tmp_path: Path, first: bytes) -> None:
    (tmp_path / "rows.jsonl").write_bytes(first + b"\n" + JSONL)
    found = read(tmp_path / "rows.jsonl")
    assert values(found) == ROWS
    assert len(bad(found)) == first.count(b"\n") + 1


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"a": 1},', "a comma after the object"),
        (b"{'a': 1}", "a Python dict and no JSON"),
        (b'{"a": None}', "Python's None and no JSON"),
        (b'{"a": 1}{"a": 2}', "another object on the same line"),
        (b"text,label", "if this is csv, let the file's name end with .csv"),
    ],
)
def test_a_line_in_another_dialect_of_json_says_which(tmp_path: Path, line: bytes, said: str) -> None:
    (tmp_path / "rows.jsonl").write_bytes(b'{"a": 0}\n' + line + b"\n")
    _, found = read(tmp_path / "rows.jsonl")
    assert isinstance(found, BadRow)
    assert (found.reason, found.line) == ("broken_json", 2)
    assert said in found.detail


@pytest.mark.parametrize("encoding", ["cp1252", "cp850", "cp1250", "macintosh"])
@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl"])
def test_the_likely_encoding_is_named(tmp_path: Path, encoding: str, name: str) -> None:
    word = "zażółć" if encoding == "cp1250" else "déjà"
    data = f"text,label\n{word} vu of the day,a\n" if name == "rows.csv" else f'{{"text": "{word} vu of the day"}}\n'
    (tmp_path / name).write_bytes(data.encode(encoding))
    (found,) = read(tmp_path / name)
    assert isinstance(found, BadRow)
    assert found.reason == "invalid_utf8"
    assert word in found.detail
    assert f"iconv -f {encoding} -t UTF-8" in found.detail


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("привет мир,a\n".encode("cp1251"), "convert it from the encoding it was written in"),
        ("éé".encode() + b"\xc3,a\n", "the text was cut within a character"),
    ],
)
def test_no_encoding_is_named_where_none_is_likely(tmp_path: Path, data: bytes, said: str) -> None:
    (tmp_path / "rows.csv").write_bytes(b"text,label\n" + data)
    (found,) = read(tmp_path / "rows.csv")
    assert isinstance(found, BadRow)
    assert said in found.detail


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
@pytest.mark.parametrize("mark", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("packed", [False, True])
def test_headers_of_files_that_were_put_together_are_no_rows(
    tmp_path: Path, quoting: Any, mark: str, packed: bool
) -> None:
    frame = pd.DataFrame(ROWS)
    parts = [p.to_csv(index=False, quoting=quoting).encode(mark) for p in (frame[:10], frame[10:11], frame[11:])]
    path = tmp_path / ("rows.csv.gz" if packed else "rows.csv")
    path.write_bytes(b"".join(gzip.compress(part) if packed else part for part in parts))
    found = read(path)
    assert values(found) == ROWS
    assert bad(found) == [(12, "repeated_header"), (14, "repeated_header")]


@pytest.mark.parametrize(
    ("record", "kept"),
    [
        ("text,label", False),
        (" Text ,LABEL", False),
        ("text,a", True),
        ("text,text", True),
        ("a,label", True),
    ],
)
def test_a_row_that_is_the_header_in_part_is_a_row(tmp_path: Path, record: str, kept: bool) -> None:
    (tmp_path / "rows.csv").write_text(f"text,label\na,b\n{record}\nc,d\n")
    found = read(tmp_path / "rows.csv")
    assert len(values(found)) == 2 + kept
    assert bad(found) == ([] if kept else [(3, "repeated_header")])


def test_of_a_single_column_only_the_very_same_header_is_one(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text\nText\ntext\ntexts\n")
    found = read(tmp_path / "rows.csv")
    assert [row["text"] for row in values(found)] == ["Text", "texts"]
    assert bad(found) == [(3, "repeated_header")]


def test_a_second_header_in_another_order_is_refused(tmp_path: Path) -> None:
    said = refusal(tmp_path / "rows.csv", b"text,label\na,b\nlabel,text\nb,a\n")
    assert said == ":3: a second header, with the columns in another order; split the file there"


@pytest.mark.parametrize(
    ("have", "said"),
    [
        (["text;label"], "'text;label' is one column: write commas between columns, not semicolons"),
        (["text\tlabel"], "write commas between columns, not tabs"),
        (["label", "meta"], "the columns are label, meta"),
        (["Text ", "label"], "did you mean 'Text '?"),
        (["textt", "label"], "did you mean 'textt'?"),
        ([f"column {i}" for i in range(10_000)], "and 9,980 more"),
    ],
)
def test_an_absent_column_says_what_was_meant(have: list[str], said: str) -> None:
    with pytest.raises(DataError, match="no column 'text'") as caught:
        need_column("text", have, "datasets.d.format")
    assert said in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_field_of_an_object_needs_a_column_of_its_own() -> None:
    with pytest.raises(DataError, match="a column 'meta' is there: write its field as a column of its own"):
        need_column("meta.label", ["meta", "text"], "datasets.d.format")


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("header", ["text,label", "文本,标签"])
def test_chinese_in_utf16_is_told_by_what_it_reads_as(tmp_path: Path, encoding: str, header: str) -> None:
    """Of such a text only line breaks and commas have a zero, far fewer than in a European one."""
    lines = [header, *(f"{'退款要求卡片丢失客户' * 8},{('错误', '账单')[i % 2]}" for i in range(70))]
    message = refusal(tmp_path / "rows.csv", "\r\n".join(lines).encode(encoding))
    assert f"is {encoding.upper().replace('-LE', 'LE').replace('-BE', 'BE')}, allowed is UTF-8; convert it" in message


@pytest.mark.parametrize("packed", [gzip.compress(b"x" * 500, mtime=0), b"\x28\xb5\x2f\xfd\x04\x00\xff\xfe"])
@pytest.mark.parametrize(
    ("name", "rows"), [("rows.jsonl", JSONL * 500), ("rows.csv", CSV + CSV.split(b"\r\n", 1)[1] * 99)]
)
@pytest.mark.parametrize("between", [b"", b"\n"])
def test_compressed_bytes_behind_a_text_lose_no_rows(
    tmp_path: Path, name: str, rows: bytes, packed: bytes, between: bytes
) -> None:
    (tmp_path / name).write_bytes(rows + between + packed)
    with pytest.raises(DataError, match=r"bytes compressed with (gzip|zstd) begin within the text; unpack that part"):
        read(tmp_path / name)


def test_utf16_behind_utf8_is_bad_rows_and_a_lone_nul_is_not(tmp_path: Path) -> None:
    wide = "ein text,a\r\nüber,b\r\n".encode("utf-16-le")
    (tmp_path / "rows.csv").write_bytes(b"text,label\n" + b"plain,a\n" * 999 + b"odd\0one,b\n" + wide)
    found = read(tmp_path / "rows.csv")
    assert [row["text"] for row in values(found)] == ["plain"] * 999 + ["odd\0one"]
    assert all(reason in ("broken_csv", "invalid_utf8", "wrong_field_count") for _, reason in bad(found))
