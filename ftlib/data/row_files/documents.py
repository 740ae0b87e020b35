"""JSON that is not in lines: one document, or objects over several lines each; and how to write it a row a line."""

from __future__ import annotations

import json
import re
from typing import Any, cast

from ftlib.data.row_files.first_bytes import converted
from ftlib.data.row_files.text import Opened
from ftlib.errors import DataError

_OPENS = re.compile(r'(\[\s*\{?|\{(\s*"[^"\\]*"\s*:\s*[\[{])?)\s*')
"""All of a first line that goes on in the next."""
_KEY = re.compile(r'"([^"\\]*)"\s*:\s*\[\s*\{')
_PANDAS_SAYS = ("one JSON document, columns as pandas writes them", "pandas")
_PANDAS = re.compile(r'\{\s*"[^"\\]*"\s*:\s*\{\s*"0"\s*:')


def refuse_document(file: Opened, uri: str, row_bytes: int) -> None:
    """Raise DataError, with the command that converts it, if a file is JSON but not one object a line.

    A file of which a line is broken is none: its lines are judged one by one.
    """
    if not file.head[:64].lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"{", b"[")):
        return
    text = file.head.decode(errors="replace").lstrip("\ufeff \t\r\n")
    try:
        value, end = json.JSONDecoder().raw_decode(text)
    except RecursionError:
        return
    except ValueError:
        document = _unfinished(text, one_line=len(file.head) > row_bytes and not file.whole)
    else:
        document = _finished(value, text[end:].strip(), several_lines="\n" in text[:end], whole=file.whole)
    if document is not None:
        raise DataError(f"{uri} is {document[0]}, not one object a line; {_remedy(document[1], uri)}")


def _finished(value: Any, rest: str, *, several_lines: bool, whole: bool) -> tuple[str, str] | None:
    """Return what a file's first JSON value is and what gives its rows, if it is not a row of lines that are."""
    alone = whole and not rest
    if not (alone or several_lines) or _is_row(rest.partition("\n")[0]):
        return None
    if isinstance(value, list):
        if not any(isinstance(item, dict) for item in cast("list[Any]", value)):
            return None
        return ("one JSON document, a list", "json.load(sys.stdin)") if alone else ("JSON lists", "jq -c '.[]'")
    if not isinstance(value, dict):
        return None
    members = cast("dict[str, Any]", value)
    if _is_pandas(members):
        return _PANDAS_SAYS
    key = _key(members)
    # No format reads a row of one or two columns of which one holds objects.
    if key is not None and (several_lines or (len(members) < 3 and len(cast("list[Any]", members[key])) > 1)):
        return _under(key)
    return ("JSON with objects over several lines", "jq -c .") if several_lines else None


def _key(value: dict[str, Any]) -> str | None:
    lists = (name for name, items in value.items() if isinstance(items, list) and items and isinstance(items[0], dict))
    return next(lists, None)


def _is_pandas(value: dict[str, Any]) -> bool:
    """Return whether it is what DataFrame.to_json writes: {column: {index: cell}}, or {columns, index, data}."""
    columns = list(value.values())
    by_index = all(isinstance(column, dict) and "0" in column for column in columns)
    return bool(columns) and (by_index or set(value) == {"columns", "index", "data"})


def _unfinished(text: str, *, one_line: bool) -> tuple[str, str] | None:
    """Return what a head is the beginning of, if one can tell; `one_line`: it is longer than a row may be."""
    first, _, rest = text.partition("\n")
    if not (_OPENS.fullmatch(first) and not _is_row(rest.lstrip().partition("\n")[0]) if rest else one_line):
        return None
    if first.startswith("["):
        return "one JSON document, a list", "json.load(sys.stdin)"
    if _PANDAS.match(text):
        return _PANDAS_SAYS
    if key := _KEY.search(text):
        return _under(key[1])
    return ("JSON with objects over several lines", "jq -c .") if rest else None


def _under(key: str) -> tuple[str, str]:
    return f"one JSON document with its rows under {key!r}", f"json.load(sys.stdin)[{key!r}]"


def _is_row(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _remedy(rows: str, uri: str) -> str:
    """Return how its rows are written in lines: a command, or Python that gives the rows."""
    if rows.startswith("json.load"):
        rows = f'python -c "import json, sys; [print(json.dumps(row)) for row in {rows}]"'
    return (
        f"convert it: {converted(uri, rows)}"
        if rows != "pandas"
        else ("write it with DataFrame.to_json(path, orient='records', lines=True)")
    )
