"""What tells rows apart whatever their text, and which version of a row is the last.

A key is a text or a whole number, and what `ftlib.data.identity.identity` calls one is one key: `7`, `"7"` and pandas'
`7.0`, since csv has no numbers and a column of whole numbers with a gap in it comes out of pandas as floats. `007` is
another.
The moment of a version is a number or an ISO 8601 date.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Container
from datetime import UTC, datetime

from ftlib.data.identity import IDENTITY, Version, identity, visible
from ftlib.data.rows import Value

CHOSEN, REJECTED = "chosen", "rejected"
"""The columns of a pair of answers."""
OVER = ">"
"""Between the keys of the two requests that a pair is made of: the chosen one's first."""
DELETED = "_deleted"
"""The column that makes a row a tombstone: true, or `"true"` from a csv."""


def row_key(value: Value) -> str | None:
    """Return the key as text; None for a value that is none: absent, empty, a truth value, a fraction, a list."""
    return identity(value) if _may_be_key(value) else None


def keys_in(value: Value, columns: Container[str]) -> tuple[Value, ...]:
    """Return the keys that a row has by its column of keys: of a pair of answers those of both requests as well."""
    if not (isinstance(value, str) and CHOSEN in columns and REJECTED in columns):
        return (value,)
    at = [place for place, letter in enumerate(value) if letter == OVER]  # a request's own id may have one
    return (value, *(part for place in at for part in (value[:place], value[place + 1 :])))


def _may_be_key(value: Value) -> bool:
    whole = isinstance(value, (str, int)) and not isinstance(value, bool)
    return whole or (isinstance(value, float) and value.is_integer())


def stored_keys(value: Value, version: Version = IDENTITY) -> tuple[str, ...]:
    """Return every text that a key may be stored as under a version of identity; none for a value that is no key.

    Version 1 knew no identity of texts: what is one now may have been stored as any of its spellings.
    """
    key = row_key(value)
    if key is None:
        return ()
    if version == IDENTITY:
        return (key,)
    as_it_is = value.strip() if isinstance(value, str) else key
    texts = [as_it_is, visible(as_it_is), key, key.title(), key.upper()]
    texts += [key + ending for ending in (".0", "T00:00:00", " 00:00:00")]
    forms = [unicodedata.normalize(form, text) for form in ("NFC", "NFD") for text in texts]
    return tuple(dict.fromkeys(text for text in (as_it_is, *forms) if identity(text) == key))


def is_tombstone(value: Value) -> bool | None:
    """Return whether the row with this in its column `_deleted` deletes its key; None for a value that does not say."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return None
    return {"true": True, "false": False, None: False}.get(identity(value))


def as_number(value: Value) -> float | None:
    """Return a finite number or the one a text says; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(visible(value) if isinstance(value, str) else value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def as_date(value: Value) -> float | None:
    """Return the seconds since 1970 of an ISO 8601 date or moment, UTC if it names no zone; None for anything else."""
    try:
        moment = datetime.fromisoformat(visible(str(value)))
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def moment_of(value: Value) -> float | None:
    """Return when a version was made: a number or a date, minus infinity where nothing is said, None for neither."""
    if identity(value) is None:
        return -math.inf
    number = as_number(value)
    return as_date(value) if number is None else number
