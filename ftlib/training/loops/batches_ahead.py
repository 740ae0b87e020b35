"""The next step's batches, built on a thread while the device works on this one's."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

import torch

AHEAD = {"cuda"}
"""Kinds of device beside which batches are built ahead: on a processor the cores that train would build them."""

Built = TypeVar("Built")


class BatchesAhead(Generic[Built]):
    """Builds what each step needs, one step ahead."""

    def __init__(self, building: Callable[[int], Callable[[], Built]], steps: int, device: torch.device) -> None:
        """Take what says how a step's are built: that runs on another thread, and must draw from no generator."""
        # A thread begins with device 0, and pinned memory would open a context there.
        initializer = (lambda: torch.cuda.set_device(device)) if device.type == "cuda" else None
        self._building, self._steps = building, steps
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batches", initializer=initializer)
        self._next: tuple[int, Future[Built]] | None = None

    def at(self, step: int) -> Built:
        """Return what a step needs, and begin the next one's. Raises what building it raised."""
        begun = self._next
        built = begun[1].result() if begun is not None and begun[0] == step else self._building(step)()
        if step + 1 < self._steps:
            self._next = step + 1, self._thread.submit(self._building(step + 1))
        return built

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(cancel_futures=True)
