"""Lines of JSON: a compiled decoder for the good ones, the json module's words for what is wrong with the others."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

import msgspec

from ftlib.data.listed import FileVersion
from ftlib.data.row_files.documents import refuse_document
from ftlib.data.row_files.encodings import not_utf8
from ftlib.data.row_files.first_bytes import BOM, refuse_packed_within
from ftlib.data.row_files.text import Line, bounded_lines, open_text
from ftlib.data.rows import NOT_FINITE, BadRow, Row, Value, blame, is_finite
from ftlib.errors import DataError

_decode = msgspec.json.Decoder().decode


def read_jsonl(file: FileVersion, row_bytes: int, drop: frozenset[str] = frozenset()) -> Iterator[Row | BadRow]:
    """Read a file of one JSON object a line, but for the names to drop; blank lines are no rows."""
    with open_text(file, row_bytes) as opened:
        refuse_document(opened, file.uri, row_bytes)
        yield from rows_of_lines(bounded_lines(opened.stream, row_bytes), file.uri, row_bytes, drop)


def rows_of_lines(
    lines: Iterable[Line], uri: str, row_bytes: int, drop: frozenset[str] = frozenset()
) -> Iterator[Row | BadRow]:
    """Read lines of one JSON object each, but for the names to drop; blank lines are no rows."""
    for line in lines:
        number, size, data = line
        values = None if data is None else _quick(data)
        if values is None:
            row_or_bad = parse_line(line, uri, row_bytes, drop)
        else:
            row_or_bad = Row(uri, number, size, _without(values, drop))
        if row_or_bad is not None:
            yield row_or_bad


def _without(values: dict[str, Value], drop: frozenset[str]) -> dict[str, Value]:
    return {name: value for name, value in values.items() if name not in drop} if drop else values


def _quick(data: bytes) -> dict[str, Value] | None:
    """Return a good line's values; None if there is anything to say about it."""
    try:
        values: Any = _decode(data)
        if type(values) is not dict:
            return None
        kinds = list(map(type, values.values()))
        strings = len(values) + kinds.count(str)
        if dict in kinds or list in kinds:
            strings += sum(map(_inner_strings, values.values()))
    except (ValueError, RecursionError):  # all that msgspec raises for bytes
        return None
    quotes = data.count(b'"')
    if b"\\" in data:
        quotes -= data.replace(b"\\\\", b"").count(b'\\"')
    # A name that is there twice is decoded once: its other quotes are left over.
    return values if quotes == 2 * strings else None


def _inner_strings(value: Value) -> int:
    """Return how many JSON strings, names included, are inside a list or an object."""
    if isinstance(value, dict):
        return len(value) + sum(map(_strings, value.values()))
    return sum(map(_strings, value)) if isinstance(value, list) else 0


def _strings(value: Value) -> int:
    return 1 if isinstance(value, str) else _inner_strings(value)


def parse_line(line: Line, uri: str, row_bytes: int, drop: frozenset[str] = frozenset()) -> Row | BadRow | None:
    """Return a line's row, what is wrong with it, or None for a blank one: the reference, and the slow way.

    Raises DataError if compressed bytes begin in it.
    """
    number, size, data = line
    if data is None:
        return BadRow(uri, number, size, "too_large", f"{size} bytes, allowed {row_bytes}")
    data = data.removeprefix(BOM)  # within a file, where files with marks were put together
    try:
        text = data.decode()
        if not text or text.isspace():
            return None
        value: object = json.loads(text, parse_constant=_noted(constants := []), object_pairs_hook=_distinct)
        if not isinstance(value, dict):
            return BadRow(uri, number, size, "not_an_object", f"a JSON {type(value).__name__}, not an object")
        row = Row(uri, number, size, _without(cast("dict[str, Value]", value), drop))
        odd = [name for name, cell in row.values.items() if not is_finite(cell)] if constants else []
        return blame(row, "not_finite", odd[0], NOT_FINITE) if odd else row
    except UnicodeDecodeError as error:
        refuse_packed_within(data, uri, number)
        return BadRow(uri, number, size, "invalid_utf8", not_utf8(data, error.start))
    except RecursionError:
        return BadRow(uri, number, size, "nested_too_deep", "lists or objects nested too deep")
    except json.JSONDecodeError as error:
        return BadRow(uri, number, size, "broken_json", _what_is_wrong(data.decode(), error))
    except ValueError as error:  # a name that is there twice, or an integer of more digits than Python converts
        return BadRow(uri, number, size, "broken_json", str(error))


def _what_is_wrong(text: str, error: json.JSONDecodeError) -> str:
    """Say where a line is no JSON, and what writes such lines."""
    rest, problem = text[error.pos :].strip(), f"column {error.colno}: {error.msg}"
    if error.msg == "Extra data":
        if rest.strip(",") == "":
            return "a comma after the object: rows are lines, with nothing between them (sed 's/,[[:space:]]*$//')"
        if rest.lstrip("\ufeff").startswith("{"):
            return f"column {error.colno}: another object on the same line; write one a line"
    if _PYTHON.match(text):
        return f"{problem}: a Python dict and no JSON; json.dumps(ast.literal_eval(line)) makes it a row"
    if word := re.match(r"None\b|True\b|False\b", rest):
        return f"{problem}: Python's {word[0]} and no JSON; write the row with json.dumps"
    if error.pos == 0 and error.msg == "Expecting value":
        return f"{problem}: a row is an object, {{...}}; if this is csv, let the file's name end with .csv"
    return problem


_PYTHON = re.compile(r"\s*\{\s*u?'")


def _noted(names: list[str]) -> Callable[[str], float]:
    """Read NaN and infinity, which are no JSON, as numbers: whether they matter depends on the columns that stay."""

    def read(name: str) -> float:
        names.append(name)
        return float(name)

    return read


def _distinct(pairs: list[tuple[str, Value]]) -> dict[str, Value]:
    values = dict(pairs)
    if len(values) < len(pairs):
        twice = next(name for i, (name, _) in enumerate(pairs) if name in dict(pairs[:i]))
        raise ValueError(f"the name {twice!r} is there twice")
    return values


def read_json(file: FileVersion, row_bytes: int, drop: frozenset[str] = frozenset()) -> Iterator[Row | BadRow]:
    """Read lines of JSON, or one list of objects; that is held as a whole, and the line of a row is its place in it.

    Raises DataError for a list that cannot be read.
    """
    with open_text(file, row_bytes) as opened:
        stream = opened.stream
        data = next((line for line in stream if line.removeprefix(BOM).strip()), b"")
        is_list = data.removeprefix(BOM).lstrip().startswith(b"[")
        data += stream.read() if is_list else b""
    if not is_list:
        yield from read_jsonl(file, row_bytes, drop)
        return
    try:
        items = cast("list[object]", json.loads(data.removeprefix(BOM), object_pairs_hook=_distinct))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file.uri} is no list in JSON: {error}; write it again, or one object a line") from error
    for number, item in enumerate(items, 1):
        line = json.dumps(item).encode()
        row_or_bad = parse_line(
            (number, len(line), line if len(line) <= row_bytes else None), file.uri, row_bytes, drop
        )
        if row_or_bad is not None:
            yield row_or_bad
