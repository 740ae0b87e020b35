"""How counts, names and users' texts are written in messages and in Markdown that others render; what thumbs say."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

_MARKUP = re.compile(r"([\\`*_\[\]<>|#~$&!])")
_LINK = re.compile(r"(?i)\b(https?|ftp|mailto|javascript|data)(?=:)|\bwww(?=\.)|(?<=[\w.+-])(?=@)")
_FIRST = re.compile(r"^(\d*)([-+.)=])(?=\s|$|[-=]+$)")
"""What makes a paragraph a list, a rule or a heading's underline."""


def counted(count: int, noun: str) -> str:
    """Write `no rows`, `1 row` or `1,200 rows`. The noun is one whose plural takes an s."""
    return f"1 {noun}" if count == 1 else f"{f'{count:,}' if count else 'no'} {noun}s"


def some(names: Sequence[str], most: int = 5, between: str = ", ") -> str:
    """Write the first `most` names and how many are left out: `a, b, c and 1,200 more`."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return between.join(names[:most]) + more


def these(names: Iterable[str]) -> str:
    """Write names in alphabetical order, or `none`: `a, b`."""
    return ", ".join(sorted(names)) or "none"


def nearest(got: str, allowed: Iterable[str], likeness: float = 0.65) -> str | None:
    """Return the name that was perhaps meant, or None if none is as like it as difflib's ratio `likeness` says."""
    return next(iter(difflib.get_close_matches(got, list(allowed), n=1, cutoff=likeness)), None)


def meant(got: str, allowed: Iterable[str]) -> str:
    """Write, to be added to a message, the name that was perhaps meant: `; did you mean 'x'?`, or nothing."""
    near = nearest(got, allowed)
    return f"; did you mean {near!r}?" if near else ""


_UP = frozenset(("true", "1", "+1", "up", "yes", "y", "good", "like", "liked", "thumbs_up", "\U0001f44d"))
_DOWN = frozenset(("false", "0", "-1", "down", "no", "n", "bad", "dislike", "disliked", "thumbs_down", "\U0001f44e"))


def thumb_of(value: object) -> bool | None:
    """Return whether a log's thumb is up; None for what says neither."""
    word = str(int(value) if isinstance(value, float) and value.is_integer() else value).strip().lower()
    return True if word in _UP else False if word in _DOWN else None


def dated(sentence: str) -> str:
    """Write `2026-11-27 20:58 UTC: sentence`, with the time that it is now."""
    return f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC: {sentence}"


def escaped(text: str) -> str:
    """Return text as one paragraph that is shown as it is: no markup, HTML, entity, table, list or link of its own."""
    line = " ".join("".join(c if c.isprintable() or c.isspace() else " " for c in text).split())
    line = _MARKUP.sub(r"\\\1", line)
    line = _LINK.sub(lambda match: f"{match[0]}\\", line)
    return _FIRST.sub(r"\1\\\2", line)


def code(text: str) -> str:
    """Return a span of code with any text in it; in a table a bar in it wants a backslash."""
    line = " ".join(text.split())
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{pad}{line}{pad}{fence}"


def block(text: str, language: str) -> str:
    """Return a block of code with any text in it."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{text}\n{fence}"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return a table; its cells are escaped here, and the first row is its header."""
    lines = [" | ".join(map(escaped, row)) for row in rows]
    return "\n".join(f"| {line} |" for line in [lines[0], " | ".join("---" for _ in rows[0]), *lines[1:]])
