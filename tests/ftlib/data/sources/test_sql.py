from __future__ import annotations

import json
import math
import random
import sqlite3
import struct
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ftlib.data.datasets import RawDataset
from ftlib.data.limits import Limits
from ftlib.data.rows import BadRow, Row
from ftlib.data.snapshot import read_snapshot
from ftlib.data.sources import Source
from ftlib.data.sources.sql import Sql
from ftlib.errors import DataError, RecipeError, ReglageError, TransientError
from ftlib.recipe.file import load_recipe
from ftlib.retraining.file_ledger import LedgerState, compare
from ftlib.stages.ingest import IngestJob, ingest
from ftlib.workspace import Workspace

pytest.importorskip("adbc_driver_sqlite")
RECIPE = Path(__file__).parents[4] / "recipes" / "sql.yaml"


def make(path: Path, rows: list[tuple[Any, ...]], columns: str = "id, body, x") -> str:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(f"create table t ({columns})")
        marks = ", ".join("?" * len(rows[0])) if rows else ""
        db.executemany(f"insert into t values ({marks})", rows)
    return str(path)


def all_rows(source: Sql, row_bytes: int = 1_000_000) -> list[Row | BadRow]:
    return list(source.read(source.pin(), row_bytes))


def snapshot(source: Source, folder: Path, **more: Any) -> tuple[RawDataset, list[dict[str, Any]]]:
    work = Workspace(folder)
    job = IngestJob(name="d", source=source, files=source.pin(), limits=Limits(rows=1), **more)
    raw = ingest(job, work)
    return raw, [values for _, values in read_snapshot(work.folder(job) / "rows.parquet")]


def test_cells_are_what_sqlite_holds_whatever_the_first_batch_looked_like(tmp_path: Path) -> None:
    # The driver takes a column that begins with nulls for integers, and raises OSError at its first text.
    finite = [f for f in (struct.unpack("d", random.Random(i).randbytes(8))[0] for i in range(300)) if math.isfinite(f)]
    held = ["text", "a\0b", "né 🙂", 7, -(2**63), 2**63 - 1, 0.1, 5e-324, -1e300, *finite]
    rows = [(i, None, None) for i in range(3000)] + [(3000 + i, f"late {i}", cell) for i, cell in enumerate(held)]
    source = Sql(uri=make(tmp_path / "a.db", rows), query="select * from t")
    read = {row.values["id"]: row for row in all_rows(source) if isinstance(row, Row)}
    assert len(read) == len(rows)
    for number, body, cell in rows:
        values = read[number].values
        assert (values.get("body"), values.get("x")) == (body, cell)
        assert type(values.get("x")) is type(cell)


def test_the_order_of_the_server_says_nothing(tmp_path: Path) -> None:
    rows = [(i, f"row {i}", i % 7 or None) for i in range(700)] + [(1, "twice", None)] * 2
    make(tmp_path / "a.db", rows)
    random.Random(0).shuffle(rows)
    make(tmp_path / "b.db", rows)
    asked = [("a.db", "select * from t"), ("b.db", "select * from t"), ("a.db", "select x, id, body from t order by 2")]
    found = [snapshot(Sql(uri=str(tmp_path / name), query=query), tmp_path / "work") for name, query in asked]
    assert len({raw.content for raw, _ in found}) == 1
    assert found[0][1] == found[1][1] == found[2][1]
    key = lambda row: (row["id"], row["body"])  # noqa: E731
    expected = [{"id": i, "body": b} | ({"x": x} if x else {}) for i, b, x in rows]
    assert sorted(found[0][1], key=key) == sorted(expected, key=key)
    files = Sql(uri=str(tmp_path / "a.db"), query="select * from t where id < 600").pin()
    assert files[0].sha256 != found[0][0].files[0].sha256


def test_what_is_new_is_what_the_query_gives(tmp_path: Path) -> None:
    source = Sql(uri=make(tmp_path / "a.db", [(1, "one", 1)]), query="select * from t")
    state = LedgerState(files=source.list())
    assert compare(state, source.list()).nothing
    (tmp_path / "a.db").touch()
    assert compare(state, source.list()).nothing
    with closing(sqlite3.connect(tmp_path / "a.db")) as db, db:
        db.execute("insert into t values (2, 'two', 2)")
    changes = compare(state, source.list())
    assert str(changes) == "1 edited"
    assert [file.sha256 for file in source.pin(changes.fresh)] == [file.sha256 for file in source.pin()]


def test_rows_that_change_between_pin_and_read_are_refused(tmp_path: Path) -> None:
    source = Sql(uri=make(tmp_path / "a.db", [(1, "one", 1)]), query="select * from t")
    files = source.pin()
    with closing(sqlite3.connect(tmp_path / "a.db")) as db, db:
        db.execute("update t set body = 'other'")
    with pytest.raises(DataError, match=r"gives other rows than when the run started; let it ask for rows that no"):
        next(source.read(files, 1000))


def test_the_last_version_of_a_key_counts(tmp_path: Path) -> None:
    rows = [(1, "old", 10), (1, "new", 20), (2, "only", 5)]
    source = Sql(uri=make(tmp_path / "a.db", rows), query="select * from t")
    raw, kept = snapshot(source, tmp_path / "work", key="id", updated="x")
    assert sorted((row["id"], row["body"]) for row in kept) == [(1, "new"), (2, "only")]
    assert raw.ledger.dropped == {"superseded": 1}


def test_bad_cells_are_told_with_their_row(tmp_path: Path) -> None:
    rows = [(1, "good", None), (2, "bytes", b"\x01\x02"), (3, "y" * 500, None), (4, "inf", float("inf"))]
    source = Sql(uri=make(tmp_path / "a.db", rows), query="select * from t order by id")
    bad = {row.line: row for row in all_rows(source, row_bytes=400) if isinstance(row, BadRow)}
    assert {line: (row.reason, row.column) for line, row in bad.items()} == {
        2: ("binary_value", "x"),
        3: ("too_large", "body"),
    }
    with closing(sqlite3.connect(tmp_path / "a.db")) as db, db:
        db.execute("insert into t values (5, cast(x'ff41' as text), null)")
    reasons = {row.line: row.reason for row in all_rows(source) if isinstance(row, BadRow)}
    assert reasons == {2: "binary_value", 5: "invalid_utf8"}
    dropped = source.model_copy(update={"drop_columns": ("x", "body")})
    assert [row.values for row in all_rows(dropped) if isinstance(row, Row)] != []
    assert all(set(row.values) == {"id"} for row in all_rows(dropped) if isinstance(row, Row))
    raw, _ = snapshot(
        source.model_copy(update={"query": "select id, body from t where id in (1, 4)"}), tmp_path / "work"
    )
    assert raw.ledger.kept == 2


@pytest.mark.parametrize(
    ("query", "error", "message"),
    [
        ("select * from nope", RecipeError, "refuses the query: no such table: nope; correct source.query"),
        ("select nope from t", RecipeError, "no such column: nope"),
        ("select id, id from t", RecipeError, "gives two columns of one name, id; name each by AS"),
        ("select * from t where id < 0", DataError, "the query gives no rows"),
        ("with x as (select 1) insert into t select 1, 2, 3", RecipeError, "the query writes; source.query must only"),
        ("select 1 as a; drop table t", RecipeError, 'near ";": syntax error'),
        ("select 1 as a) select * from t --", RecipeError, "syntax error"),
    ],
)
def test_bad_queries_are_one_line(tmp_path: Path, query: str, error: type[ReglageError], message: str) -> None:
    source = Sql(uri=make(tmp_path / "a.db", [(1, "one", 1)]), query=query)
    before = (tmp_path / "a.db").read_bytes()
    with pytest.raises(error) as raised:
        source.list()
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
    assert (tmp_path / "a.db").read_bytes() == before


@pytest.mark.parametrize(
    ("query", "rows"),
    [
        ("select id from t;", [{"id": 1}]),
        ("select id from t; -- all of them", [{"id": 1}]),
        ("select id from t /* ; */ ;\n;\n-- 'done", [{"id": 1}]),
        ("select 'a; -- b' as told from t -- it's one", [{"told": "a; -- b"}]),
        ("-- why\nselect 'it''s; --' as \"of;\" -- what;\nfrom t", [{"of;": "it's; --"}]),
    ],
)
def test_a_query_may_end_with_semicolons_and_comments(tmp_path: Path, query: str, rows: list[dict[str, Any]]) -> None:
    source = Sql(uri=make(tmp_path / "a.db", [(1, "one", 1)]), query=query)
    assert [row.values for row in all_rows(source) if isinstance(row, Row)] == rows


def test_a_query_that_takes_too_long_is_left(tmp_path: Path) -> None:
    """SQLite goes on by itself, so the query ends some time: an endless one would take a core from all other tests."""
    slow = "with recursive r(n) as (select 1 union all select n + 1 from r limit 3000000) select count(*) c from r"
    source = Sql(uri=make(tmp_path / "a.db", [(1, "one", 1)]), query=slow, timeout_seconds=0.1)
    with pytest.raises(DataError, match=r"took longer than 0.1 seconds; make it faster or raise"):
        source.list()


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("no database " * 100)
    for name, message in (("absent.db", "no such file"), ("text.db", "is no SQLite file; correct source.uri")):
        with pytest.raises(DataError, match=message):
            Sql(uri=str(tmp_path / name), query="select 1 as a").list()
    path = make(tmp_path / "locked.db", [(1, "one", 1)])
    # Another process: the locks of POSIX do not hold within one.
    hold = f"import sqlite3; sqlite3.connect({path!r}).execute('begin exclusive'); print('held', flush=True); input()"
    command = [sys.executable, "-S", "-c", hold]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout
        assert other.stdout.readline() == "held\n"
        with pytest.raises(TransientError, match=r"is locked: another process writes to it; try again later"):
            Sql(uri=path, query="select * from t").list()
        other.communicate("\n")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("uri", "mysql://host/db", "mysql:// is no database this can ask"),
        ("uri", "sqlite:///rows.db", "name a SQLite file by its path alone"),
        ("uri", "postgresql://reader:secret@host/db", "in it"),
        ("uri", "postgresql://host/db?user=reader&password=secret", "holds a secret"),
        ("uri", "postgresql://host/db?sslpassword=secret", "holds a password"),
        ("query", "-- a comment\n /* two */ Delete from t", "begins with 'Delete', allowed are SELECT"),
        ("query", "pragma table_info(t)", "begins with 'pragma'"),
        ("query", " ", "begins with ''"),
        ("timeout_seconds", "0", "greater than 0"),
    ],
)
def test_check_refuses_without_a_connection(field: str, value: str, message: str) -> None:
    with pytest.raises(RecipeError) as raised:
        load_recipe(RECIPE, [f"datasets.tickets.source.{field}={json.dumps(value)}"])
    assert message in str(raised.value)
    assert "=secret" not in str(raised.value)
    assert ":secret" not in str(raised.value)


def test_a_missing_driver_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Sql(uri=make(tmp_path / "a.db", [(1, "one", 1)]), query="select * from t")
    monkeypatch.setitem(sys.modules, "adbc_driver_sqlite", None)
    monkeypatch.setitem(sys.modules, "adbc_driver_sqlite.dbapi", None)
    with pytest.raises(RecipeError, match=r"needs adbc_driver_sqlite, which is not installed: pip install 'reglage"):
        source.list()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RecipeError, match=r"datasets.tickets.source needs the package 'adbc_driver_sqlite'"):
        load_recipe(RECIPE)
