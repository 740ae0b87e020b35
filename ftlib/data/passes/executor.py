"""Who runs a pass: this process, or whoever else maps a function over blocks (`ftlib.on_ray.data`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar, runtime_checkable

from ftlib.storage import Place

T = TypeVar("T")
R = TypeVar("R")

PROGRAM_BYTES = 640 << 20
"""What a worker holds beside rows: Python, Ray, Arrow, torch, the tokenizer, and the block that it is at."""
_LEAST_BYTES = 32 << 20


@runtime_checkable
class Executor(Protocol):
    """Maps a function over the items of a pass."""

    @property
    def workers(self) -> int:
        """Return how many items are worked on at a time; 0: one, in this process."""
        ...

    @property
    def memory(self) -> int:
        """Return the bytes of rows and of what is made of them that a call may hold at a time."""
        ...

    @property
    def shared(self) -> Place | None:
        """Return the place in a bucket through which its machines hand files on; None if all see one folder."""
        ...

    def map(self, function: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
        """Yield what the function says of each item, in the order of the items.

        A call may be made twice, where its worker was lost: what it writes must be the same then. Raises what the
        first of the failed calls raised.
        """
        ...


class InProcess:
    """Works on one item after the other, here."""

    workers = 0
    shared: Place | None = None

    def __init__(self, memory: int = 256 << 20) -> None:
        self.memory = memory

    def map(self, function: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
        """Yield what the function says of each item, when it is asked for."""
        return map(function, items)


def room(memory_mb: int) -> int:
    """Return the bytes of rows that a worker may hold of all it may hold."""
    return max(_LEAST_BYTES, (memory_mb << 20) - PROGRAM_BYTES)


def parts_of(executor: Executor, rows: int, row_bytes: int) -> int:
    """Return into how many parts rows are dealt out, so that a worker can hold one; how many decides no result."""
    return max(1, executor.workers, math.ceil(rows * row_bytes / executor.memory))
