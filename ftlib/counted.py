"""A number with its noun, as messages write it."""

from __future__ import annotations


def counted(count: int, noun: str) -> str:
    """Write `no rows`, `1 row` or `1,200 rows`. The noun is one whose plural takes an s."""
    return f"1 {noun}" if count == 1 else f"{f'{count:,}' if count else 'no'} {noun}s"
