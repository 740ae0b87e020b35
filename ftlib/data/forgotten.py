"""Rows that are to be forgotten, by a digest of their keys: what ingestion leaves out although a source still has it.

A digest and no key, so that the list of what was forgotten does not remember it. Whoever has a key can ask whether it
is on the list, and keys that are few can all be asked: the list is as private as a version's index of rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection

from ftlib.data.row_keys import row_key
from ftlib.data.rows import Value

_SALT = b"reglage forget"


def digest_of_key(value: Value) -> str | None:
    """Return what stands for a key on the list, 32 hex digits; None for a value that is no key."""
    key = row_key(value)
    if key is None:
        return None
    return hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16, key=_SALT).hexdigest()


def is_forgotten(value: Value, excluded: Collection[str]) -> bool:
    """Say whether a row with this key is to be left out."""
    return digest_of_key(value) in excluded
