"""Records of a csv file."""

from __future__ import annotations

import csv
import re
from collections import deque
from collections.abc import Iterator, Sequence
from typing import IO, NamedTuple

from ftlib.data.listed import FileVersion
from ftlib.data.row_files.dialects import refuse_dialect
from ftlib.data.row_files.encodings import not_utf8
from ftlib.data.row_files.first_bytes import BOM, refuse_packed_within, wide_line
from ftlib.data.row_files.text import Line, bounded_lines, open_text
from ftlib.data.rows import BadRow, Row
from ftlib.errors import DataError
from ftlib.wording import counted

_TORN = re.compile("[\udc80-\udcff]")
"""What `surrogateescape` makes of bytes that are not UTF-8."""


class _RecordTooLargeError(Exception):
    pass


class _CsvLines:
    """Feeds physical lines to `csv.reader` and remembers those of the current record.

    An unclosed quote makes the reader swallow everything after it. The record is therefore cut off at the allowed
    size, its first line is given up, and the others are read again: one bad line costs one row.
    """

    def __init__(self, stream: IO[bytes], uri: str, row_bytes: int) -> None:
        self._uri = uri
        self._lines = bounded_lines(stream, row_bytes)
        self._again: deque[Line] = deque()
        self._allowed = row_bytes
        self.taken: list[Line] = []
        self.bytes = 0
        self.torn = False
        """Whether the record has bytes that are not UTF-8."""

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else next(self._lines)
        number, size, data = line
        self.taken.append(line)
        self.bytes += size
        if data is None or self.bytes > self._allowed:
            raise _RecordTooLargeError
        if len(self.taken) == 1 and data.startswith(BOM):  # where files with marks were put together
            data = data[len(BOM) :]
        try:
            return data.decode()
        except UnicodeDecodeError:
            refuse_packed_within(data, self._uri, number)
            self.torn = True
            return data.decode("utf-8", "surrogateescape")

    def begin(self) -> None:
        """Start another record."""
        self.taken, self.bytes, self.torn = [], 0, False

    def give_up(self) -> Line:
        """Return the record's first line and put the others back."""
        self._again.extendleft(reversed(self.taken[1:]))
        return self.taken[0]


def read_csv(
    file: FileVersion, row_bytes: int, drop: frozenset[str] = frozenset(), delimiter: str = ","
) -> Iterator[Row | BadRow]:
    """Read a file of records under a header, but for the columns to drop; an empty field is a null."""
    # The module's limit on a field is global and 128 KiB; ours is per record and enforced by _CsvLines.
    csv.field_size_limit(max(csv.field_size_limit(), row_bytes))
    with open_text(file, row_bytes) as opened:
        if delimiter == ",":
            refuse_dialect(opened.head, file.uri)
        records = _csv_records(_CsvLines(opened.stream, file.uri, row_bytes), file.uri, row_bytes, delimiter)
        header = next(records, None)
        if header is None:
            return
        names = _header(header, file.uri)
        short = header.bytes + 4 * len(names) + len(BOM)  # a header again, quoted and with blanks; most rows are longer
        for record in records:
            if isinstance(record, BadRow):
                yield record
            elif record.bytes > short or not _is_header(record, names):
                yield _csv_row(record, names, drop)
            else:
                yield BadRow(record.uri, record.line, record.bytes, "repeated_header", "the header again, no row")


class _Record(NamedTuple):
    uri: str
    line: int
    bytes: int
    torn: bytes | None
    """The record's bytes, if some are not UTF-8."""
    fields: list[str]


def _csv_records(lines: _CsvLines, uri: str, row_bytes: int, delimiter: str) -> Iterator[_Record | BadRow]:
    """Yield the file's records; one that cannot be read is a bad row, and reading goes on behind it."""
    reader = csv.reader(lines, strict=True, delimiter=delimiter)
    while True:
        lines.begin()
        try:
            fields = next(reader)
        except StopIteration:
            return
        except (csv.Error, _RecordTooLargeError) as error:
            number, size, data = lines.give_up()
            reader = csv.reader(lines, strict=True, delimiter=delimiter)
            if data is None:
                yield BadRow(uri, number, size, "too_large", f"{size} bytes, allowed {row_bytes}")
            else:
                detail = _what_is_wrong(str(error), data) or f"a quoted field does not end within {row_bytes} bytes"
                yield BadRow(uri, number, size, "broken_csv", detail)
            continue
        if fields:
            torn = b"".join(data or b"" for _, _, data in lines.taken) if lines.torn else None
            yield _Record(uri, lines.taken[0][0], lines.bytes, torn, fields)


def _what_is_wrong(message: str, line: bytes) -> str:
    """Say what the csv module says of a record, and what writes such records."""
    if "new-line character" in message:
        return "a carriage return outside of quotes: let all lines end with LF or CRLF"
    if "unexpected end" in message:
        return "a quoted field does not end before the file does"
    if "expected after" in message:
        escaped = ' (here as \\")' if b'\\"' in line else ""
        return f"text after a closing quote: double the quotes{escaped} that are within a quoted field"
    return message


def _header(record: _Record | BadRow, uri: str) -> list[str]:
    if isinstance(record, BadRow):
        raise DataError(f"{uri}:{record.line}: the header cannot be read: {record.detail}; write the columns' names")
    if record.torn is not None:
        raise DataError(f"{uri}:{record.line}: the header is not UTF-8: {_not_utf8(record.torn)}")
    refuse_twice(record.fields, uri)
    return record.fields


def _is_header(record: _Record, names: list[str]) -> bool:
    """Return whether a record repeats the header, as where files were put together.

    Blanks and case of several names do not count; a single one may be a word of the rows, and has to be the same.
    Raises DataError for all the names in another order: the rows after it would be read in the wrong one.
    """
    fields = record.fields
    if fields == names:
        return True
    if len(fields) != len(names) or len(names) < 2:
        return False
    folded, header = ([name.strip().casefold() for name in row] for row in (fields, names))
    if folded != header and sorted(folded) == sorted(header):
        raise DataError(
            f"{record.uri}:{record.line}: a second header, with the columns in another order; split the file there"
        )
    return folded == header


def refuse_twice(names: Sequence[str], uri: str) -> None:
    """Raise DataError if a column's name is there more than once."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{uri} has more than one column {', '.join(map(repr, twice))}; rename them")


def _csv_row(record: _Record, names: list[str], drop: frozenset[str]) -> Row | BadRow:
    """Return a record as a row under its header, or what is wrong with it."""
    uri, line, size, torn, fields = record
    if len(fields) != len(names):
        detail = f"{counted(len(fields), 'field')}, the header has {len(names)}"
        return BadRow(uri, line, size, "wrong_field_count", detail)
    if any("\0" in field for field in fields) and (encoding := wide_line(",".join(fields).encode())):
        return BadRow(
            uri,
            line,
            size,
            "broken_csv",
            f"text in {encoding} within UTF-8; convert that part: iconv -f {encoding} -t UTF-8",
        )
    if drop:
        kept = [i for i, name in enumerate(names) if name not in drop]
        names, fields = [names[i] for i in kept], [fields[i] for i in kept]
        torn = torn if any(map(_TORN.search, fields)) else None
    if torn is not None:
        return BadRow(uri, line, size, "invalid_utf8", _not_utf8(torn))
    # csv cannot tell an empty text from an absent one, and has no numbers: a value is a non-empty text or null.
    return Row(uri, line, size, {name: text or None for name, text in zip(names, fields, strict=True)}, untyped=True)


def _not_utf8(record: bytes) -> str:
    try:
        record.decode()
    except UnicodeDecodeError as error:
        return not_utf8(record, error.start)
    raise AssertionError("a torn record has bytes that are not UTF-8")
