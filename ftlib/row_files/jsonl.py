"""Lines of JSON: a compiled decoder for the good ones, the json module's words for what is wrong with the others."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import NoReturn, cast

import msgspec

from ftlib.artifacts import FileVersion
from ftlib.row_files.text import Line, bounded_lines, open_text
from ftlib.rows import BadRow, Row, Value

_decode = msgspec.json.Decoder().decode


def read_jsonl(file: FileVersion, row_bytes: int) -> Iterator[Row | BadRow]:
    """Read a file of one JSON object a line; blank lines are no rows."""
    uri = file.uri
    with open_text(file) as stream:
        for number, size, data in bounded_lines(stream, row_bytes):
            if data is not None:
                try:
                    value = _decode(data)
                except (ValueError, RecursionError):  # all that msgspec raises for bytes
                    value = None
                if type(value) is dict and _names_differ(data, cast("dict[str, Value]", value)):
                    yield Row(uri, number, size, cast("dict[str, Value]", value))
                    continue
            found = parse_line(Line(number, size, data), uri, row_bytes)
            if found is not None:
                yield found


def _names_differ(data: bytes, value: dict[str, Value]) -> bool:
    """Return whether every name was kept: a second one of the same name would be missing, with its quotes."""
    quotes = data.count(b'"')
    if b"\\" in data:
        quotes -= data.replace(b"\\\\", b"").count(b'\\"')
    return quotes == 2 * _strings(value)


def _strings(value: Value) -> int:
    """Return how many JSON strings, names included, a value is written with."""
    if isinstance(value, str):
        return 1
    if not isinstance(value, (dict, list)):
        return 0
    items = list(value.values()) if isinstance(value, dict) else value
    names = len(value) if isinstance(value, dict) else 0
    kinds = list(map(type, items))
    if dict in kinds or list in kinds:
        return names + sum(map(_strings, items))
    return names + kinds.count(str)


def parse_line(line: Line, uri: str, row_bytes: int) -> Row | BadRow | None:
    """Return a line's row, what is wrong with it, or None for a blank one: the reference, and the slow way."""
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
