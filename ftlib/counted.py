"""Numbers and lists of names, as messages write them."""

from __future__ import annotations

from collections.abc import Sequence


def counted(count: int, noun: str) -> str:
    """Write `no rows`, `1 row` or `1,200 rows`. The noun is one whose plural takes an s."""
    return f"1 {noun}" if count == 1 else f"{f'{count:,}' if count else 'no'} {noun}s"


def some(names: Sequence[str], most: int = 5) -> str:
    """Write the first `most` names and how many are left out: `a, b, c and 1,200 more`."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
