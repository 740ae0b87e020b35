"""A PostgreSQL server, where its programs are installed (`make postgres`)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from ftlib.data.rows import BadRow, Row
from ftlib.data.sources.sql import Sql
from ftlib.errors import DataError, RecipeError, ReglageError, StorageError, TransientError
from infra import postgres

pytest.importorskip("adbc_driver_postgresql")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(postgres.programs() is None, reason="no PostgreSQL; `make postgres` installs it"),
]


@pytest.fixture(scope="module")
def running() -> Iterator[postgres.Server]:
    with postgres.server() as server:
        yield server


@pytest.fixture
def uri(running: postgres.Server, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("PGPASSWORD", running.password)
    return running.uri


@pytest.fixture
def db(uri: str) -> Iterator[Any]:
    from adbc_driver_postgresql import dbapi

    with dbapi.connect(uri, autocommit=True) as connection, connection.cursor() as cursor:
        for what in ("table if exists t", "sequence if exists s", "type if exists mood"):
            cursor.execute(f"drop {what}")
        cursor.execute("create type mood as enum ('calm', 'cross')")
        cursor.execute("create table t (id int, body text, m mood)")
        cursor.execute("create sequence s")
        cursor.execute(
            "insert into t select i, case when i > 5000 then 'late ' || i end, 'cross' from generate_series(1, 6000) i"
        )
        yield cursor


def values(source: Sql) -> list[dict[str, Any]]:
    rows = list(source.read(source.pin(), 1_000_000))
    assert not [row for row in rows if isinstance(row, BadRow)]
    return [row.values for row in rows if isinstance(row, Row)]


def test_rows_and_their_order(uri: str, db: Any) -> None:
    source = Sql(uri=uri, query="select * from t order by id;")
    rows = values(source)
    expected = [{"id": i, "m": "cross"} | ({"body": f"late {i}"} if i > 5000 else {}) for i in range(1, 6001)]
    assert sorted(rows, key=lambda row: row["id"]) == expected
    backwards = Sql(uri=uri, query="select m, body, id from t order by id desc")
    assert backwards.pin()[0].sha256 == source.pin()[0].sha256
    assert values(backwards) == rows
    assert source.list()[0].uri == uri.partition("?")[0]
    db.execute("update t set body = 'edited' where id = 17")
    assert backwards.pin()[0].sha256 != source.model_copy(update={"query": "select * from t where id <> 17"}).pin()
    assert {"id": 17, "m": "cross", "body": "edited"} in values(source)


def test_types(uri: str, db: Any) -> None:
    query = """
        select true as b, 7::smallint as i, 9007199254740993 as big, 0.1::float8 as f, 1.50::numeric as n,
        'a'::char(3) as c, '{"a": [1, {"b": null}]}'::json as j, '[1.5]'::jsonb as jb,
        'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid as u, '2026-01-02 03:04:05.25'::timestamp as ts,
        '2026-01-02 03:04:05+02'::timestamptz as tz, '2026-01-02'::date as d, '03:04:05'::time as t,
        '1 day 2 hours'::interval as iv, array['p', null] as ar, array[[1, 2], [3, 4]] as two,
        array['calm'::mood] as ma,
        'calm'::mood as m, '<a/>'::xml as x, '127.0.0.1'::inet as ip, row(1, 'x') as r, int4range(1, 3) as rg,
        'NaN'::float8 as nan, null as nothing
    """
    (row,) = values(Sql(uri=uri, query=query))
    assert row == {
        "b": True, "i": 7, "big": 9007199254740993, "f": 0.1, "n": "1.50", "c": "a  ", "j": {"a": [1, {"b": None}]},
        "jb": [1.5], "u": "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "ts": "2026-01-02T03:04:05.250000",
        "tz": "2026-01-02T01:04:05+00:00", "d": "2026-01-02", "t": "03:04:05", "iv": "1 day 02:00:00",
        "ar": ["p", None], "two": [[1, 2], [3, 4]], "ma": ["calm"], "m": "calm", "x": "<a/>", "ip": "127.0.0.1/32",
        "r": {"f1": 1, "f2": "x"}, "rg": "[1,3)",
    }  # fmt: skip
    endless = Sql(uri=uri, query="select 'infinity'::date as later")
    (bad,) = endless.read(endless.pin(), 1000)
    assert isinstance(bad, BadRow)
    assert (bad.reason, bad.column) == ("unreadable_value", "later")


@pytest.mark.parametrize(
    ("query", "error", "message"),
    [
        ("select * from nope", RecipeError, 'refuses the query: relation "nope" does not exist; correct source.query'),
        ("select id, id from t", RecipeError, "gives two columns of one name, id"),
        ("select * from t where id < 0", DataError, "gives no rows"),
        ("with x as (delete from t returning id) select * from x", RecipeError, "the query writes"),
        ("with x as (select 1) insert into t(id) select 7 returning id", RecipeError, "the query writes"),
        ("select nextval('s') as n", RecipeError, "the query writes (cannot execute nextval() in a read-only"),
        (
            "select set_config('transaction_read_only', 'off', false) as n, nextval('s') as m",
            RecipeError,
            "the query writes",
        ),
        ("select 1 as a; drop table t", RecipeError, "cannot insert multiple commands"),
        ("select 1 / (id - 5000) as a from t", DataError, "fails on a row: division by zero"),
    ],
)
def test_bad_queries_are_one_line(uri: str, db: Any, query: str, error: type[ReglageError], message: str) -> None:
    with pytest.raises(error) as raised:
        Sql(uri=uri, query=query).list()
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
    db.execute("select count(*) as n, (select last_value from s) from t")
    assert db.fetchone() == (6000, 1)


def test_a_query_that_takes_too_long_is_cancelled(uri: str, db: Any) -> None:
    with pytest.raises(DataError, match=r"took longer than 0.5 seconds"):
        Sql(uri=uri, query="select pg_sleep(60)::text as a", timeout_seconds=0.5).list()
    deadline = time.monotonic() + 10
    while True:
        db.execute("select count(*) from pg_stat_activity where query like 'WITH asked%' and state = 'active'")
        if db.fetchone() == (0,):
            break
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_servers_that_let_no_one_in(
    uri: str, running: postgres.Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    good = Sql(uri=uri, query="select 1 as a")
    monkeypatch.setenv("PGPASSWORD", "tellnoone")
    with pytest.raises(
        StorageError, match=r"lets no one in: password authentication failed .* set PGUSER and"
    ) as raised:
        good.list()
    assert "tellnoone" not in str(raised.value)
    monkeypatch.delenv("PGPASSWORD")
    monkeypatch.setenv("PGPASSFILE", str(tmp_path / "absent"))
    with pytest.raises(StorageError, match=r"no password supplied"):
        good.list()
    (tmp_path / "pgpass").write_text(f"127.0.0.1:*:*:{postgres.USER}:{running.password}\n")
    (tmp_path / "pgpass").chmod(0o600)
    monkeypatch.setenv("PGPASSFILE", str(tmp_path / "pgpass"))
    assert len(good.list()) == 1
    with pytest.raises(RecipeError, match=r'database "nothere" does not exist; correct source.uri'):
        Sql(uri=uri.replace("/postgres?", "/nothere?"), query="select 1 as a").list()
    with pytest.raises(TransientError, match=r"does not answer: Connection refused"):
        Sql(uri="postgresql://127.0.0.1:1/postgres", query="select 1 as a").list()
