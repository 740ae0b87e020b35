"""What tells rows apart whatever their text, and which version of a row is the last.

A key is a text or a whole number, and `7`, `"7"` and pandas' `7.0` are one key: csv has no numbers, and a column of
whole numbers with a gap in it comes out of pandas as floats. The moment of a version is a number or an ISO 8601 date.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime

from ftlib.rows import Value

DELETED = "_deleted"
"""The column that makes a row a tombstone: true, or `"true"` from a csv."""


def row_key(value: Value) -> str | None:
    """Return the key as text; None for a value that is none: absent, empty, a truth value, a fraction, a list."""
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else None
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        return None
    return str(value).strip() or None


def is_tombstone(value: Value) -> bool | None:
    """Return whether the row with this in its column `_deleted` deletes its key; None for a value that does not say."""
    words = {"true": True, "false": False, "": False}
    if value is None or isinstance(value, bool):
        return bool(value)
    return words.get(value.strip().lower()) if isinstance(value, str) else None


def as_number(value: Value) -> float | None:
    """Return a finite number or the one a text says; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def as_date(value: Value) -> float | None:
    """Return the seconds since 1970 of an ISO 8601 date or moment, UTC if it names no zone; None for anything else."""
    try:
        moment = datetime.fromisoformat(str(value))
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
