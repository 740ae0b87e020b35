"""Readers of one file of rows, each in a process and on a thread of its own.

Every one must give the rows' values to the program, and is asked for the same columns: id (int), text, label (one of
three), score (float) and moment.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import datetime
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import msgspec
import pyarrow as pa
from pydantic import BaseModel, ValidationError

from ftlib.data.listed import FileVersion
from ftlib.data.row_files import pin_file, read_file
from ftlib.data.row_schema import Column, compile_schema
from ftlib.data.rows import BadRow
from ftlib.data.sources.files import Files
from ftlib.stages.ingest import IngestJob, ingest
from ftlib.workspace import Workspace

LABELS = ("bug", "sales", "billing")
COLUMNS = {
    "id": Column(type="int"),
    "text": Column(type="string"),
    "label": Column(type="enum", values=LABELS),
    "score": Column(type="float"),
    "moment": Column(type="datetime"),
}
ROW_BYTES = 1_000_000
_DUCKDB = "{id: 'BIGINT', text: 'VARCHAR', label: 'VARCHAR', score: 'DOUBLE', moment: 'TIMESTAMPTZ'}"
Found = tuple[int, list[int] | int | None]
"""Rows that were read, and the lines (or the count) of those that were refused; None if the reader does not say."""


@cache
def pinned(path: Path) -> FileVersion:
    """Identify the file, which a run does when it lists its source."""
    return pin_file(path)


def ours(path: Path, columns: dict[str, Column]) -> Found:
    schema, rows, refused = compile_schema(columns), 0, list[int]()
    for row in read_file(pinned(path), ROW_BYTES):
        checked = row if schema is None or isinstance(row, BadRow) else schema(row, row.values)
        if isinstance(checked, BadRow):
            refused.append(checked.line)
        else:
            rows += 1
    return rows, refused


def whole_stage(path: Path) -> Found:
    with tempfile.TemporaryDirectory() as work:
        source = Files(path=str(path))
        fields = {"columns": COLUMNS, "limits": {"bad_rows": 1.0}}
        job = IngestJob.model_validate({"name": "rows", "source": source, "files": source.pin(), **fields})
        raw = ingest(job, Workspace(Path(work)))
        lines = [json.loads(line)["line"] for line in (raw.path / "quarantine.jsonl").read_text().splitlines()]
        return raw.ledger.kept, lines


class Strict(BaseModel, strict=True):
    """The row in pydantic."""

    id: int
    text: str
    label: Literal["bug", "sales", "billing"]
    score: float
    moment: datetime


class Struct(msgspec.Struct):
    """The row in msgspec."""

    id: int
    text: str
    label: Literal["bug", "sales", "billing"]
    score: float
    moment: datetime


def by_line(path: Path, parse: Callable[[bytes], object]) -> Found:
    rows, refused = 0, list[int]()
    with path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            try:
                parse(line)
            except (ValidationError, ValueError, msgspec.MsgspecError):
                refused.append(number)
            else:
                rows += 1
    return rows, refused


def pyarrow_json(path: Path) -> Found:
    from pyarrow import json as pajson

    schema = pa.schema(
        [
            ("id", pa.int64()),
            ("text", pa.string()),
            ("label", pa.string()),
            ("score", pa.float64()),
            ("moment", pa.string()),
        ]
    )
    options = pajson.ParseOptions(explicit_schema=schema, unexpected_field_behavior="error")
    return pajson.read_json(path, pajson.ReadOptions(use_threads=False), options).num_rows, None


def pyarrow_csv(path: Path) -> Found:
    from pyarrow import csv as pacsv

    types = {"id": pa.int64(), "text": pa.string(), "label": pa.string(), "score": pa.float64()}
    refused: list[int] = []

    def skip(row: Any) -> str:
        refused.append(row.number if row.number is not None else -1)
        return "skip"

    table = pacsv.read_csv(
        path,
        pacsv.ReadOptions(use_threads=False),
        pacsv.ParseOptions(invalid_row_handler=skip),
        pacsv.ConvertOptions(column_types=types),
    )
    return table.num_rows, refused


def duckdb_json(path: Path, ignore_errors: bool) -> Found:
    duckdb: Any = import_module("duckdb")
    with duckdb.connect(config={"threads": 1}) as database:
        options = f"format='newline_delimited', columns={_DUCKDB}, ignore_errors={ignore_errors}"
        return database.execute(f"SELECT * FROM read_json('{path}', {options})").to_arrow_table().num_rows, None


def duckdb_csv(path: Path) -> Found:
    duckdb: Any = import_module("duckdb")
    with duckdb.connect(config={"threads": 1}) as database:
        query = f"SELECT * FROM read_csv('{path}', header=true, columns={_DUCKDB}, store_rejects=true)"
        rows = database.execute(query).to_arrow_table().num_rows
        return rows, [line for (line,) in database.execute("SELECT DISTINCT line FROM reject_errors").fetchall()]


def polars_json(path: Path) -> Found:
    polars: Any = import_module("polars")
    return polars.read_ndjson(path).height, None


JSONL: dict[str, Callable[[Path], Found]] = {
    "reglage, schema": lambda path: ours(path, COLUMNS),
    "reglage, general": lambda path: ours(path, {}),
    "reglage, whole stage": whole_stage,
    "msgspec by line": lambda path: by_line(path, msgspec.json.Decoder(Struct).decode),
    "pydantic by line": lambda path: by_line(path, Strict.model_validate_json),
    "json by line": lambda path: by_line(path, json.loads),
    "pyarrow.json": pyarrow_json,
    "duckdb": lambda path: duckdb_json(path, False),
    "duckdb, ignore_errors": lambda path: duckdb_json(path, True),
    "polars": polars_json,
}
CSV: dict[str, Callable[[Path], Found]] = {
    "reglage, schema": lambda path: ours(path, COLUMNS),
    "reglage, general": lambda path: ours(path, {}),
    "pyarrow.csv": pyarrow_csv,
    "duckdb, store_rejects": duckdb_csv,
}


def main(given: str, returned: str) -> None:
    task = json.loads(Path(given).read_text())
    path = Path(task["path"])
    read = (CSV if path.suffix == ".csv" else JSONL)[task["contestant"]]
    warm_up(read, path)
    pinned(path)
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        rows, refused = read(path)
        outcome: dict[str, Any] = {"rows": rows, "refused": refused}
    except Exception as error:  # whatever a library says of a file is its outcome
        outcome = {"failed": f"{type(error).__name__}: {str(error).splitlines()[0][:150]}"}
    outcome |= {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
    Path(returned).write_text(json.dumps(outcome))


def warm_up(read: Callable[[Path], Found], path: Path) -> None:
    """Load what is loaded on the first call, with a file of one good row."""
    with tempfile.TemporaryDirectory() as folder:
        small = Path(folder) / f"rows{path.suffix}"
        with path.open("rb") as stream:
            small.write_bytes(b"".join(stream.readline() for _ in range(20)))
        read(small)


if __name__ == "__main__":
    main(*sys.argv[1:])
