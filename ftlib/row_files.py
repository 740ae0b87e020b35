"""Readers of jsonl, csv and parquet that hold one row at a time and say of every row they cannot read where and why.

A file is hashed while it is read: if it changed since it was pinned, the last step of its reading raises DataError.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import zlib
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple, NoReturn, cast

from ftlib.artifacts import FileVersion
from ftlib.errors import DataError
from ftlib.fingerprint import file_digest
from ftlib.rows import BadRow, Row, Value, from_python

SUFFIXES = (".jsonl", ".ndjson", ".csv", ".parquet")
COMPRESSED = tuple(f"{suffix}.gz" for suffix in SUFFIXES[:3])

_BOM = b"\xef\xbb\xbf"
_BATCH = 1024


def pin_file(path: Path, uri: str | None = None) -> FileVersion:
    """Identify a file's bytes as they are now. Raises DataError if it cannot be read."""
    try:
        return FileVersion(uri=uri or str(path), bytes=path.stat().st_size, sha256=file_digest(path))
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; make it readable or take it out of the source") from error


def read_file(file: FileVersion, row_bytes: int) -> Iterator[Row | BadRow]:
    """Read a pinned local file by its suffix, in order.

    Raises DataError if the file changed since it was pinned, or is damaged as a whole.
    """
    name = file.uri.lower()
    if name.endswith(".parquet"):
        return _read_parquet(file)
    if name.removesuffix(".gz").endswith(".csv"):
        return _read_csv(file, row_bytes)
    return _read_jsonl(file, row_bytes)


class _Line(NamedTuple):
    number: int
    bytes: int
    data: bytes | None
    """None if the line is longer than allowed: it was skipped without being held."""


def _read_jsonl(file: FileVersion, row_bytes: int) -> Iterator[Row | BadRow]:
    with _unchanged(file) as stream:
        for line in _bounded_lines(stream, row_bytes):
            found = _parse_json(line, file.uri, row_bytes)
            if found is not None:
                yield found


def _parse_json(line: _Line, uri: str, row_bytes: int) -> Row | BadRow | None:
    if line.data is None:
        return BadRow(uri, line.number, line.bytes, "too_large", f"{line.bytes} bytes, allowed {row_bytes}")
    try:
        text = line.data.decode()
        if not text or text.isspace():
            return None
        value: object = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_distinct)
    except UnicodeDecodeError as error:
        return BadRow(uri, line.number, line.bytes, "invalid_utf8", f"byte {error.start + 1}: {error.reason}")
    except _NotFiniteError as error:
        return BadRow(uri, line.number, line.bytes, "not_finite", f"{error} is not a JSON number")
    except RecursionError:
        return BadRow(uri, line.number, line.bytes, "nested_too_deep", "lists or objects nested too deep")
    except json.JSONDecodeError as error:
        return BadRow(uri, line.number, line.bytes, "broken_json", f"column {error.colno}: {error.msg}")
    except ValueError as error:  # a name that is there twice, or an integer of more digits than Python converts
        return BadRow(uri, line.number, line.bytes, "broken_json", str(error))
    if not isinstance(value, dict):
        return BadRow(uri, line.number, line.bytes, "not_an_object", f"a JSON {type(value).__name__}, not an object")
    return Row(uri, line.number, line.bytes, cast("dict[str, Value]", value))


class _NotFiniteError(ValueError):
    pass


def _refuse_constant(name: str) -> NoReturn:
    raise _NotFiniteError(name)


def _distinct(pairs: list[tuple[str, Value]]) -> dict[str, Value]:
    values = dict(pairs)
    if len(values) < len(pairs):
        twice = next(name for i, (name, _) in enumerate(pairs) if name in dict(pairs[:i]))
        raise ValueError(f"the name {twice!r} is there twice")
    return values


class _RecordTooLargeError(Exception):
    pass


class _CsvLines:
    """Feeds physical lines to `csv.reader` and remembers those of the current record.

    An unclosed quote makes the reader swallow everything after it. The record is therefore cut off at the allowed
    size, its first line is given up, and the others are read again: one bad line costs one row.
    """

    def __init__(self, stream: IO[bytes], row_bytes: int) -> None:
        self._lines = _bounded_lines(stream, row_bytes)
        self._again: deque[_Line] = deque()
        self._allowed = row_bytes
        self.taken: list[_Line] = []
        self.bytes = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else next(self._lines)
        self.taken.append(line)
        self.bytes += line.bytes
        if line.data is None or self.bytes > self._allowed:
            raise _RecordTooLargeError
        return line.data.decode("utf-8", "surrogateescape")  # bad bytes are found again, and reported, field by field

    def begin(self) -> None:
        """Start another record."""
        self.taken, self.bytes = [], 0

    def give_up(self) -> _Line:
        """Return the record's first line and put the others back."""
        self._again.extendleft(reversed(self.taken[1:]))
        return self.taken[0]


def _read_csv(file: FileVersion, row_bytes: int) -> Iterator[Row | BadRow]:
    # The module's limit on a field is global and 128 KiB; ours is per record and enforced by _CsvLines.
    csv.field_size_limit(max(csv.field_size_limit(), row_bytes))
    with _unchanged(file) as stream:
        records = _csv_records(_CsvLines(stream, row_bytes), file.uri, row_bytes)
        header = next(records, None)
        if header is None:
            return
        names = _header(header, file.uri)
        for record in records:
            yield record if isinstance(record, BadRow) else _csv_row(record, names)


class _Record(NamedTuple):
    uri: str
    line: int
    bytes: int
    fields: list[str]


def _csv_records(lines: _CsvLines, uri: str, row_bytes: int) -> Iterator[_Record | BadRow]:
    reader = csv.reader(lines, strict=True)
    while True:
        lines.begin()
        try:
            fields = next(reader)
        except StopIteration:
            return
        except (csv.Error, _RecordTooLargeError) as error:
            first = lines.give_up()
            reader = csv.reader(lines, strict=True)
            if first.data is None:
                yield BadRow(uri, first.number, first.bytes, "too_large", f"{first.bytes} bytes, allowed {row_bytes}")
            else:
                detail = str(error) or f"a quoted field does not end within {row_bytes} bytes"
                yield BadRow(uri, first.number, first.bytes, "broken_csv", detail)
            continue
        if fields:
            yield _Record(uri, lines.taken[0].number, lines.bytes, fields)


def _header(record: _Record | BadRow, uri: str) -> list[str]:
    if isinstance(record, BadRow):
        raise DataError(f"{uri}:{record.line}: the header cannot be read: {record.detail}; write the columns' names")
    _refuse_twice(record.fields, uri)
    return record.fields


def _refuse_twice(names: list[str], uri: str) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{uri} has more than one column {', '.join(map(repr, twice))}; rename them")


def _csv_row(record: _Record, names: list[str]) -> Row | BadRow:
    uri, line, size, fields = record
    if len(fields) != len(names):
        detail = f"{len(fields)} fields, the header has {len(names)}"
        return BadRow(uri, line, size, "wrong_field_count", detail)
    if any("\udc80" <= c <= "\udcff" for text in fields for c in text if not text.isascii()):
        return BadRow(uri, line, size, "invalid_utf8", "bytes that are not UTF-8")
    # csv cannot tell an empty text from an absent one, and has no numbers: a value is a non-empty text or null.
    return Row(uri, line, size, {name: text or None for name, text in zip(names, fields, strict=True)})


def _read_parquet(file: FileVersion) -> Iterator[Row | BadRow]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with Path(file.uri).open("rb") as stream:
            table = parquet.ParquetFile(stream)
            _refuse_twice(table.schema_arrow.names, file.uri)
            size = file.bytes // max(table.metadata.num_rows, 1)
            batches = (batch.to_pylist() for batch in table.iter_batches(batch_size=_BATCH, use_threads=False))
            cells = (row for batch in batches for row in batch)
            for number, row in enumerate(cells, start=1):
                yield table_row(file.uri, number, size, row)
            stream.seek(0)  # the same open file: what was replaced meanwhile does not matter, what was overwritten does
            _compare(file, hashlib.file_digest(cast("Any", stream), "sha256").hexdigest())
    except pa.ArrowException as error:
        what = str(error).splitlines()[0]
        raise DataError(f"{file.uri} cannot be read as parquet: {what}; write it again") from error
    except OSError as error:
        what = error.strerror or str(error).splitlines()[0]
        raise DataError(f"{file.uri} cannot be read as parquet: {what}; write it again") from error


def table_row(uri: str, number: int, size: int, cells: dict[str, object]) -> Row | BadRow:
    """Turn a table's row into a row of values."""
    values: dict[str, Value] = {}
    for name, cell in cells.items():
        try:
            values[name] = from_python(cell)
        except TypeError:
            return BadRow(uri, number, size, "binary_value", f"column {name!r} holds bytes; store text or numbers")
    return Row(uri, number, size, values)


def _bounded_lines(stream: IO[bytes], limit: int) -> Iterator[_Line]:
    """Yield lines; one that is longer than `limit` is skipped in pieces, so that it never lies in memory."""
    number = 0
    while data := stream.readline(limit + 2):
        number += 1
        if number == 1:
            data = data.removeprefix(_BOM)
        if len(data.rstrip(b"\r\n")) <= limit:
            yield _Line(number, len(data), data)
            continue
        size = len(data)
        while data and not data.endswith(b"\n"):
            data = stream.readline(1 << 16)
            size += len(data)
        yield _Line(number, size, None)


class _Hashed(io.RawIOBase):
    """Passes bytes on and hashes them."""

    def __init__(self, raw: io.FileIO) -> None:
        self._raw = raw
        self.sha256 = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self._raw.readinto(buffer)
        self.sha256.update(memoryview(buffer)[:count])
        return count


@contextmanager
def _unchanged(file: FileVersion) -> Generator[IO[bytes]]:
    """Open a text file, decompressed; after the block, check that its bytes are those that were pinned."""
    try:
        with Path(file.uri).open("rb", buffering=0) as raw:
            hashed = _Hashed(raw)
            stream = io.BufferedReader(hashed, 1 << 20)
            if stream.peek(2)[:2] in (b"\xff\xfe", b"\xfe\xff"):
                raise DataError(f"{file.uri} is UTF-16, allowed is UTF-8; convert it")
            yield cast("IO[bytes]", gzip.GzipFile(fileobj=stream)) if file.uri.lower().endswith(".gz") else stream
            while stream.read(1 << 20):
                pass
            _compare(file, hashed.sha256.hexdigest())
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{file.uri} is a damaged gzip file: {error}; write it again") from error
    except OSError as error:
        raise DataError(f"{file.uri}: {error.strerror}; make it readable or take it out of the source") from error


def _compare(file: FileVersion, sha256: str) -> None:
    if sha256 != file.sha256:
        raise DataError(
            f"{file.uri} changed while it was read: sha256 {sha256[:12]}, {file.sha256[:12]} when the run started; "
            "let no one write to it during a run, and run again"
        )
