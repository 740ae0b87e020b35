"""Several requests at a time whose answers are wanted in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def in_order(function: Callable[[T], R], items: Iterable[T], width: int) -> Iterator[R]:
    """Yield `function(item)` in order, with `width` calls under way and never more results than that in memory."""
    with ThreadPoolExecutor(width) as pool:
        waiting: deque[Future[R]] = deque()
        try:
            for item in items:
                if len(waiting) == width:
                    yield waiting.popleft().result()
                waiting.append(pool.submit(function, item))
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
