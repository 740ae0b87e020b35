"""How rows of a query are read through ADBC, Arrow's drivers: from a SQLite file, or from a PostgreSQL server.

Nothing here can write: SQLite is opened read-only, PostgreSQL's session is read-only, and the query is put into one
that selects from it, so that it is a query and no other statement.
"""

from __future__ import annotations

import json
import math
import re
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty, Full, Queue
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, cast
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from typing_extensions import override

from ftlib.config import user_path
from ftlib.data.row_files.cells import cells_of
from ftlib.data.rows import NoValue
from ftlib.errors import DataError, RecipeError, ReglageError, StorageError, TransientError, first_line
from ftlib.wording import some

if TYPE_CHECKING:
    import pyarrow as pa

_BATCH_ROWS = 256
"""Of SQLite; PostgreSQL's driver counts bytes."""
_BATCH_BYTES = 4 << 20
_CONNECT_SECONDS = 10
_POLL = 0.2
_WRITES = ("data-modifying", "in a read-only transaction", "transaction read-write mode")
"""What PostgreSQL says of a query that writes, where no SQLSTATE comes with it."""
_INSTALL = "pip install 'reglage[sql]'"
_NO_FILE_SCHEMES = ("sqlite", "file")


class Table(NamedTuple):
    """Some of a query's rows."""

    names: Sequence[str]
    columns: Sequence[Sequence[object]]
    """Of Python's own values; bytes are bytes, and a NoValue stands for a cell that is no value."""


class Database(ABC):
    """Where a query is asked."""

    package: ClassVar[str]
    """The driver, an optional package."""
    shown: str
    """What rows and messages call it: no user, no options."""
    _running: Any = None

    def tables(self, query: str, seconds: float) -> Iterator[Table]:
        """Ask a query, and yield its rows as they come. No more than `seconds` are spent waiting for the database.

        Raises RecipeError for a query that the database refuses, TransientError for one that does not answer,
        StorageError where it lets no one in, DataError where it takes too long or ends half-way.
        """
        waiting = _Waiting(self._pump(query))
        try:
            yield from waiting.items(seconds, f"{self.shown}: the query")
        finally:
            if not waiting.stop():
                self._cancel()

    def _pump(self, query: str) -> Generator[Table, None, None]:
        """Yield the rows, all in one thread: a driver's call cannot be interrupted from within it."""
        with self._said_in_one_line(), self._connected() as connection:
            names = self._names(connection, query)
            self._refuse_twice(names)
            # The columns go by number: names may differ by case alone, and a subquery's stars may rename them.
            own = ", ".join(f"c{i}" for i in range(len(names)))
            asked = f"WITH asked({own}) AS ({query}\n)"
            with self._cursor(connection) as cursor:
                yield from self._read(cursor, asked, names)

    @contextmanager
    def _connected(self) -> Generator[Any]:
        connection = self._connect()
        try:
            yield connection
        finally:
            connection.close()

    @contextmanager
    def _cursor(self, connection: Any) -> Generator[Any]:
        with connection.cursor() as cursor:
            self._running = cursor
            try:
                yield cursor
            finally:
                self._running = None

    def _cancel(self) -> None:
        """End the query that runs, where the driver can: SQLite's cannot."""
        if self._running is not None:
            with suppress(Exception):
                self._running.adbc_cancel()

    @contextmanager
    def _said_in_one_line(self) -> Generator[None]:
        try:
            yield
        except ReglageError:
            raise
        except Exception as error:  # a driver's own errors have no base in common, and Arrow's are OSErrors
            raise self._refusal(error) from error

    def _refuse_twice(self, names: Sequence[str]) -> None:
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise RecipeError(
                f"{self.shown}: the query gives two columns of one name, {some(twice, 5)}; name each by AS in "
                "source.query"
            )

    @abstractmethod
    def _connect(self) -> Any:
        """Return a connection that cannot write."""

    @abstractmethod
    def _names(self, connection: Any, query: str) -> list[str]:
        """Return the names of the query's columns, as it gives them."""

    @abstractmethod
    def _read(self, cursor: Any, asked: str, names: Sequence[str]) -> Iterator[Table]:
        """Yield the rows of `asked`, whose columns are c0, c1, ..."""

    @abstractmethod
    def _refusal(self, error: Exception) -> ReglageError:
        """Return the error to raise for a driver's."""

    def _refused_query(self, reason: str) -> RecipeError:
        return RecipeError(f"{self.shown} refuses the query: {reason}; correct source.query")


class Sqlite(Database):
    """A SQLite file. Each cell has a type of its own there, whatever its column was declared as.

    The driver guesses a column's type from the first batch: of one that begins with nulls it expects integers, and
    the first text ends the stream. So SQLite is asked for texts, never null, that begin with a letter for the type.
    """

    package = "adbc_driver_sqlite"

    def __init__(self, path: str) -> None:
        self.path = user_path(path).absolute()
        self.shown = str(self.path)

    @override
    def _connect(self) -> Any:
        if not self.path.is_file():
            raise DataError(f"{self.path}: no such file (looked in {Path.cwd()}); correct source.uri")
        sqlite = _driver(self.package)
        return sqlite.connect(f"file:{quote(str(self.path))}?mode=ro")

    @override
    def _names(self, connection: Any, query: str) -> list[str]:
        with self._cursor(connection) as cursor:
            cursor.adbc_statement.set_options(**{"adbc.sqlite.query.batch_rows": "1"})
            cursor.execute(query)
            return list(cursor.fetch_record_batch().schema.names)

    @override
    def _read(self, cursor: Any, asked: str, names: Sequence[str]) -> Iterator[Table]:
        cells = ", ".join(_TYPED_CELL.format(f"c{i}") for i in range(len(names)))
        cursor.adbc_statement.set_options(**{"adbc.sqlite.query.batch_rows": str(_BATCH_ROWS)})
        cursor.execute(f"{asked} SELECT {cells} FROM asked")
        for batch in cursor.fetch_record_batch():
            yield Table(names, [list(map(_from_typed, cells_of(column))) for column in batch.columns])

    @override
    def _refusal(self, error: Exception) -> ReglageError:
        reason = re.sub(r"^.*?(Failed to (prepare|step) query|\[SQLite\]): ", "", first_line(error))
        if "not a database" in reason:
            return DataError(f"{self.path} is no SQLite file; correct source.uri")
        if "is locked" in reason:
            return TransientError(f"{self.path}: {reason}: another process writes to it; try again later")
        if "readonly" in reason:
            return RecipeError(f"{self.path}: the query writes; source.query must only read")
        return self._refused_query(reason)


class Postgres(Database):
    """A PostgreSQL server. Its types are known before a row is read."""

    package = "adbc_driver_postgresql"

    def __init__(self, uri: str) -> None:
        parts = urlsplit(uri)
        self.shown = f"{parts.scheme}://{parts.netloc}{parts.path}"
        options = {"connect_timeout": str(_CONNECT_SECONDS), **dict(parse_qsl(parts.query))}
        self.uri = f"{self.shown}?{urlencode(options, quote_via=quote)}"

    @override
    def _connect(self) -> Any:
        postgresql = _driver(self.package)
        try:
            connection = postgresql.connect(self.uri)
        except Exception as error:
            raise self._no_connection(error) from error
        with connection.cursor() as cursor:
            cursor.execute("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY")
        connection.commit()  # it holds from the next transaction on
        return connection

    @override
    def _names(self, connection: Any, query: str) -> list[str]:
        with connection.cursor() as cursor:
            return list(cursor.adbc_execute_schema(query).names)

    @override
    def _read(self, cursor: Any, asked: str, names: Sequence[str]) -> Iterator[Table]:
        types = [field.type for field in cursor.adbc_execute_schema(f"{asked} SELECT * FROM asked")]
        cells = [_asked_as(f"c{i}", kind) for i, kind in enumerate(types)]
        cursor.adbc_statement.set_options(**{"adbc.postgresql.batch_size_hint_bytes": str(_BATCH_BYTES)})
        cursor.execute(f"{asked} SELECT {', '.join(sql for sql, _ in cells)} FROM asked")
        for batch in cursor.fetch_record_batch():
            yield Table(
                names,
                [
                    _parsed(cells_of(column)) if is_json else cells_of(column)
                    for column, (_, is_json) in zip(batch.columns, cells, strict=True)
                ],
            )

    def _no_connection(self, error: Exception) -> ReglageError:
        reason = re.sub(r"^.*Failed to connect: (connection to server at .*? failed: )?", "", first_line(error))
        if any(word in reason for word in ("password", "authentication", "role", "pg_hba", "permission")):
            return StorageError(
                f"{self.shown} lets no one in: {reason.removeprefix('FATAL:').strip()}; set PGUSER and PGPASSWORD, or "
                "name the user in source.uri (?user=...) and the password in ~/.pgpass"
            )
        if "FATAL" in reason:
            return RecipeError(f"{self.shown}: {reason.removeprefix('FATAL:').strip()}; correct source.uri")
        return TransientError(f"{self.shown} does not answer: {reason}; correct source.uri, or try again later")

    @override
    def _refusal(self, error: Exception) -> ReglageError:
        state = str(getattr(error, "sqlstate", None) or "")  # Arrow's error, after the first batch, has none
        reason = re.sub(r"^.*?(ERROR|FATAL):\s+", "", first_line(error))
        if state == "25006" or any(word in reason for word in _WRITES):
            return RecipeError(f"{self.shown}: the query writes ({reason}); source.query must only read")
        if state == "42501":
            return StorageError(f"{self.shown}: {reason}; grant SELECT to the user, or name another")
        if state[:2] in ("08", "53", "57", "58") or (not state and "ERROR:" not in str(error)):
            return TransientError(f"{self.shown}: the query ended half-way: {reason}; try again later")
        if state[:2] in ("22", ""):
            return DataError(f"{self.shown}: the query fails on a row: {reason}; correct source.query or the row")
        return self._refused_query(reason)


def database(uri: str) -> Database:
    """Return what a URI names: a PostgreSQL server, or a SQLite file by its path. Raises ValueError for others."""
    scheme, separator, _ = uri.partition(":/")
    if scheme in ("postgresql", "postgres"):
        if "sslpassword" in urlsplit(uri).query:
            raise ValueError("holds a password; a recipe holds none: name the key's file by sslkey, without a password")
        return Postgres(uri)
    if separator:
        remedy = "name a SQLite file by its path alone" if scheme in _NO_FILE_SCHEMES else "copy the rows to files"
        raise ValueError(f"{scheme}:// is no database this can ask, allowed are postgresql:// and a path; {remedy}")
    return Sqlite(uri)


_TYPED_CELL = (
    "CASE typeof({0}) WHEN 'null' THEN 'n' WHEN 'integer' THEN 'i' || {0} WHEN 'text' THEN 't' || {0} "
    "WHEN 'real' THEN 'r' || printf('%!.17g', {0}) ELSE 'b' || hex({0}) END"
)


def _from_typed(cell: object) -> object:
    if isinstance(cell, NoValue):
        return cell
    kind, text = cast("str", cell)[:1], cast("str", cell)[1:]
    match kind:
        case "t":
            return text
        case "i":
            return int(text)
        case "r":
            return float(text)
        case "b":
            return bytes.fromhex(text)
        case _:
            return None


def _asked_as(column: str, kind: pa.DataType) -> tuple[str, bool]:
    """Return how a column is asked for, and whether it then is JSON.

    Arrow has no type for enums, inet, xml and much else, which come as the bytes that the server keeps; an array of
    several dimensions ends the stream.
    """
    import pyarrow as pa

    if str(kind) == "extension<arrow.json>":
        return column, True
    if pa.types.is_nested(kind):
        return f"to_jsonb({column})", True
    plain = pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind)
    plain = plain or pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_binary(kind)
    moment = pa.types.is_timestamp(kind) or pa.types.is_date(kind) or pa.types.is_time(kind)
    return (column if plain or moment else f"{column}::text"), False


def _parsed(cells: list[object]) -> list[object]:
    return [json.loads(cell) if isinstance(cell, str) else cell for cell in cells]


def _driver(package: str) -> Any:
    import importlib

    try:
        return importlib.import_module(f"{package}.dbapi")
    except ImportError as error:
        raise RecipeError(f"a sql source needs {package}, which is not installed: {_INSTALL}") from error


class _Waiting:
    """Takes a generator's items out of a thread of its own, as long as they do not keep one waiting too long.

    A driver's call cannot be interrupted: what takes too long is left to itself, and ends with the process at latest.
    """

    def __init__(self, items: Generator[Table, None, None]) -> None:
        self._items = items
        self._queue: Queue[Table | BaseException | None] = Queue(1)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sql", daemon=True)

    def items(self, seconds: float, what: str) -> Iterator[Table]:
        """Yield the items. Raises DataError once more than `seconds` were waited for them altogether."""
        self._thread.start()
        left = seconds if seconds else math.inf
        while True:
            began = time.monotonic()
            try:
                item = self._queue.get(timeout=left if left < threading.TIMEOUT_MAX else None)
            except Empty:
                raise DataError(
                    f"{what} took longer than {seconds:g} seconds; make it faster or raise source.timeout_seconds"
                ) from None
            left = max(left - (time.monotonic() - began), 0.0)
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield item

    def stop(self) -> bool:
        """Take no more items, and say whether the thread has ended."""
        self._stopped.set()
        self._thread.join(2 * _POLL)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            for item in self._items:
                if not self._put(item):
                    break
        except BaseException as error:
            self._put(error)
        else:
            self._put(None)
        finally:
            self._items.close()

    def _put(self, item: Table | BaseException | None) -> bool:
        while not self._stopped.is_set():
            try:
                self._queue.put(item, timeout=_POLL)
            except Full:
                continue
            return True
        return False
