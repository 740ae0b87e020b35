"""Rows of a SQL query, from a SQLite file or a PostgreSQL server."""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

from pydantic import Field, field_validator
from typing_extensions import override

from ftlib.data.images.columns import no_files, taken_from, with_images
from ftlib.data.listed import FileVersion, ListedFile, PinnedAlready
from ftlib.data.row_files.class_names import named
from ftlib.data.rows import BadRow, Row, Value, canonical_json, table_row, too_large
from ftlib.data.sources.base import SourceBase
from ftlib.data.sources.databases import Database, database
from ftlib.errors import DataError
from ftlib.storage.files import local_errors

_READS = ("select", "with", "values", "table")
_COMMENT = re.compile(r"\s+|--[^\n]*(\n|$)|/\*.*?\*/|\(", re.S)
_TOKEN = re.compile(
    r"""
    (?P<nothing> \s+ | --[^\n]* | /\*.*?\*/ | ; )
    | [eE]'(?: \\. | '' | [^\\'] )*'
    | '(?: '' | [^'] )*'
    | "[^"]*"
    | \$(\w*)\$ .*? \$\2\$
    | .
    """,
    re.S | re.X,
)
"""A piece of a query: what says nothing, or a text in its quotes, in which all of these may stand, or a character."""


class Sql(SourceBase):
    """The rows of one query.

    Sql(uri="tickets.db", query="select body, queue from tickets")
    Sql(uri="postgresql://db.example.org/shop", query="select ...")

    What a query gives is known only by asking it, so its content is its version: every run asks it twice, and a
    retraining asks whether something is new by asking it. A server may give the rows in any order, so they are read in
    that of their own digests. The user and the password come from PGUSER and PGPASSWORD, or from ~/.pgpass.
    """

    kind: Literal["sql"] = "sql"
    uri: str = Field(min_length=1)
    """The path of a SQLite file, or `postgresql://host:port/database`; what follows a `?` is libpq's."""
    query: str
    """One query that only reads: SELECT, WITH, VALUES or TABLE."""
    timeout_seconds: float = Field(default=600.0, gt=0.0)
    """How long the database may be waited for, each time that the query is asked."""
    drop_columns: tuple[str, ...] = ()
    """Columns that nobody reads: they are left out before a row is judged."""
    images: tuple[str, ...] = ()
    """Columns that hold images: bytes, or base64."""

    @field_validator("uri")
    @classmethod
    def _known(cls, uri: str) -> str:
        database(uri)
        return uri

    @field_validator("query")
    @classmethod
    def _only_reads(cls, query: str) -> str:
        word = re.match(r"\w*", _after_comments(query))
        begins = word[0] if word else ""
        if begins.casefold() not in _READS:
            raise ValueError(f"begins with {begins!r}, allowed are {', '.join(_READS).upper()}: a source only reads")
        return query

    @property
    @override
    def image_columns(self) -> tuple[str, ...]:
        return self.images

    @property
    @override
    def package(self) -> str | None:
        return database(self.uri).package

    def list(self) -> tuple[ListedFile, ...]:
        """Ask the query, and list its rows as one file. Raises DataError if there are none."""
        asked = database(self.uri)
        digests, size = bytearray(), 0
        for row in self._asked(asked):
            digests += row.digest
            size += len(row.record)
        if not digests:
            raise DataError(f"{asked.shown}: the query gives no rows; correct source.query")
        return (ListedFile(uri=asked.shown, version=_together(digests), bytes=size),)

    def pin(
        self, listed: Sequence[ListedFile] | None = None, known: PinnedAlready | None = None
    ) -> tuple[FileVersion, ...]:
        """Freeze a listing, by default that of now: its version is its content, so nothing is asked again."""
        listed = self.list() if listed is None else listed
        return tuple(FileVersion(uri=f.uri, bytes=f.bytes, sha256=f.version, version=f.version) for f in listed)

    def read(self, files: tuple[FileVersion, ...], row_bytes: int) -> Iterator[Row | BadRow]:
        """Yield the rows in the order of their digests; `line` is a row's place among those that the database gave.

        Costs 24 bytes of memory a row, and a temporary file of all of them: they are sorted before the first is given.
        Raises DataError if the query gives other rows than were pinned.
        """
        asked = database(self.uri)
        with tempfile.TemporaryDirectory(prefix="reglage-") as folder:
            spool = Path(folder, "rows")
            digests, offsets = bytearray(), array("q", [0])
            with local_errors(spool), spool.open("wb") as stream:
                for row in self._asked(asked):
                    digests += row.digest
                    offsets.append(offsets[-1] + stream.write(row.kept(asked.shown, len(offsets), row_bytes)))
            if [_together(digests)] != [file.sha256 for file in files]:
                raise DataError(
                    f"{asked.shown}: the query gives other rows than when the run started; let it ask for rows that no "
                    "longer change (a moment in the past, a table that was copied), and run again"
                )
            yield from _sorted_rows(spool, digests, offsets, asked.shown)

    def _asked(self, asked: Database) -> Iterator[_AskedRow]:
        images, drop = taken_from(self.images), frozenset(self.drop_columns)
        number = 0
        query = _alone(self.query)
        for table in asked.tables(query, self.timeout_seconds):
            kept = [(name, cells) for name, cells in zip(table.names, table.columns, strict=True) if name not in drop]
            names = [name for name, _ in kept]
            columns = [named(list(cells), images[name]) if name in images else cells for name, cells in kept]
            for cells in zip(*columns, strict=True) if columns else ():
                number += 1
                row = table_row(asked.shown, number, 0, dict(zip(names, cells, strict=True)))
                yield _AskedRow.of(with_images(row, self.images, no_files))


def _alone(query: str) -> str:
    """Return a query without what follows its last word: a semicolon would end the query that it is put into."""
    word_ends = [token.end() for token in _TOKEN.finditer(query) if token["nothing"] is None]
    return query[: word_ends[-1]].strip() if word_ends else query


class _AskedRow(NamedTuple):
    """A row as the database gave it."""

    row: Row | BadRow
    record: bytes
    """Its JSON, from which it is made again."""
    digest: bytes
    """16 bytes that do not depend on its place."""

    @classmethod
    def of(cls, row: Row | BadRow) -> _AskedRow:
        if isinstance(row, BadRow):
            record = json.dumps({**asdict(row), "line": 0}, sort_keys=True).encode()
        else:
            record = _json({name: value for name, value in row.values.items() if value is not None})
        return cls(row, record, hashlib.sha256(record).digest()[:16])

    def kept(self, uri: str, line: int, row_bytes: int) -> bytes:
        """Return what is written of it: a letter for whether it is a good one, and JSON."""
        row, record = self.row, self.record
        if isinstance(row, Row) and len(record) > row_bytes:
            values = row.values
            largest = max(values, key=lambda name: len(_json({name: values[name]})))
            row = too_large(uri, line, len(record), row_bytes, largest, image=str(values[largest])[:5] == "data:")
        return b"r" + record if isinstance(row, Row) else b"b" + json.dumps(asdict(row)).encode()


def _json(values: dict[str, Value]) -> bytes:
    try:
        return canonical_json(values)
    except ValueError:  # infinity, which ingestion refuses with its place
        return json.dumps(values, sort_keys=True).encode()


def _together(digests: bytearray) -> str:
    """Return the sha256 of the rows' digests in their order."""
    import numpy as np

    return hashlib.sha256(np.sort(np.frombuffer(digests, "S16")).tobytes()).hexdigest()


def _sorted_rows(spool: Path, digests: bytearray, offsets: Sequence[int], uri: str) -> Iterator[Row | BadRow]:
    import numpy as np

    order = np.argsort(np.frombuffer(digests, "S16"), kind="stable")
    with spool.open("rb") as stream:
        for number in order.tolist():
            stream.seek(offsets[number])
            record = stream.read(offsets[number + 1] - offsets[number])
            values = cast("dict[str, Any]", json.loads(record[1:]))
            if record[:1] == b"b":
                yield BadRow(**{**values, "line": number + 1})
            else:
                yield Row(uri, number + 1, len(record) - 1, values)


def _after_comments(query: str) -> str:
    """Return a query without the blanks, comments and brackets before its first word."""
    start = 0
    while skipped := _COMMENT.match(query, start):
        start = skipped.end()
    return query[start:]
