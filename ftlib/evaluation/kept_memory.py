"""Memory that forward passes free is kept for the next one, instead of asked of the kernel again, page by page.

glibc gives large blocks back as soon as they are free, and the kernel fills each page with zeros before it hands it out
again: up to a sixth of the work of a small encoder's pass. Numbers do not depend on it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_KEPT = (1 << 31) - 1, 1 << 30
"""Bytes: free ones that stay, and a block that is asked of the kernel by itself."""
_AFTERWARDS = 64 << 20, 32 << 20
"""Where glibc's own thresholds come to in a process that has freed large blocks."""


@contextmanager
def kept_memory() -> Generator[None]:
    """Keep what is freed until the block ends; on another C library than glibc nothing is done."""
    libc = _glibc()
    if libc is None:
        yield
        return
    _set(libc, _KEPT)
    try:
        yield
    finally:
        _set(libc, _AFTERWARDS)
        libc.malloc_trim(0)


def _glibc() -> Any:
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None


def _set(libc: Any, thresholds: tuple[int, int]) -> None:
    for which, size in zip((_TRIM_THRESHOLD, _MMAP_THRESHOLD), thresholds, strict=True):
        libc.mallopt(which, size)
