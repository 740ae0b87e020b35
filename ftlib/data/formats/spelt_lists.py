"""Texts that spell a list, as csv gets them from writers whose rows hold lists."""

from __future__ import annotations

import json

from ftlib.data.rows import Value

_PAIRS = ("[]", "()", "{}")


def spells_list(value: Value, separator: str | None = None) -> bool:
    """Return whether a value is the text of a list, a tuple or a set, as JSON, Python, numpy or PostgreSQL write them.

    `[bug]` is a name in brackets; with a separator between its words, it is a list without quotes. Where cells are cut
    at a separator, `{bug}` is PostgreSQL's array of one.
    """
    text = value.strip() if isinstance(value, str) else ""
    if text[:1] + text[-1:] not in _PAIRS or len(text) < 2:
        return False
    inner = text[1:-1].strip()
    if inner[:1] in ("'", '"') and inner.rstrip(",")[-1:] in ("'", '"'):
        return True
    if text[0] == "{":
        return separator is not None
    if text[0] == "(":
        return not inner
    if separator is not None and separator in inner and not {*"[]"} & {*inner}:
        return True
    try:
        return isinstance(json.loads(text), list)
    except (ValueError, RecursionError):
        return False
