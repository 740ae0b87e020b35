"""Tell which dialect of csv a file is in where it is not the one that is read: commas, doubled quotes, no preamble."""

from __future__ import annotations

import csv
import io
import json
from contextlib import suppress
from itertools import islice

from ftlib.data.row_files.first_bytes import converted
from ftlib.data.rows import SEPARATORS
from ftlib.errors import DataError

_SAMPLE = 64 << 10


def refuse_dialect(head: bytes, uri: str) -> None:
    """Raise DataError if a csv file's beginning is in another dialect, or is JSON."""
    text = head[:_SAMPLE].decode(errors="replace").removeprefix("\ufeff")
    first = text.partition("\n")[0].strip()
    if first.lower().startswith("sep=") and len(first) <= len("sep=;"):
        raise DataError(f"{uri} begins with {first!r}, which is for Excel alone; delete the line, and write commas")
    if first.startswith(("{", "[")) and _is_json(first):
        raise DataError(f"{uri} is JSON, not csv as its name says; let its name end with .jsonl")
    if any(len(header) > 1 for header in _records(text, ",")[:1]):
        return
    for separator, called in SEPARATORS.items():
        records = _records(text, separator)
        if len(records) == 2 and len(records[0]) == len(records[1]) > 1:
            raise DataError(f"{uri} has columns between {called}, allowed are commas; {_remedy(separator, uri)}")


def _records(text: str, separator: str) -> list[list[str]]:
    """Return the first two records, or those before the first that cannot be read so."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    records: list[list[str]] = []
    with suppress(csv.Error):
        records.extend(islice(filter(None, reader), 2))
    return records


def _is_json(line: str) -> bool:
    try:
        return isinstance(json.loads(line), (dict, list))
    except (ValueError, RecursionError):
        return line in ("[", "{", "[{")


def _remedy(separator: str, uri: str) -> str:
    rows = f"csv.reader(sys.stdin, delimiter={separator!r})"
    command = f'python -c "import csv, sys; csv.writer(sys.stdout).writerows({rows})"'
    return f"convert it: {converted(uri, command)}"
