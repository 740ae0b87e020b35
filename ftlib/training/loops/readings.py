"""Numbers that a step computes on its device, read some steps later: asking at once would wait for all that is queued.

A GPU works through a queue that the processor fills. A copy to the host's memory stands in that queue behind its own
step, so reading it late waits for nothing; a copy that is queued late would wait for the steps in between as well.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

import torch
from jaxtyping import Float

AHEAD = {"cuda": 2}
"""Steps that may be queued before a step's numbers are read, by kind of device: nothing is queued on a processor."""

Step = TypeVar("Step")


class Readings(Generic[Step]):
    """Hands every step over with its numbers, in order: `read(step, numbers, seconds)`.

    `seconds` are the step's own where it is read at once; else those between its reading and that of the step before.
    """

    def __init__(self, device: torch.device, read: Callable[[Step, list[float], float], None]) -> None:
        """Read as late as the device allows."""
        self._ahead, self._read = AHEAD.get(device.type, 0), read
        self._waiting = deque[tuple[Step, Callable[[], list[float]], float]]()
        self._last = -1.0

    def add(self, step: Step, numbers: Float[torch.Tensor, " n"], began: float) -> None:
        """Take a step that began at this `time.monotonic()`; read those that are due."""
        self._waiting.append((step, _later(numbers), began))
        while len(self._waiting) > self._ahead:
            self._read_first()

    def settle(self) -> None:
        """Read all that were taken: before what depends on them is written, or the training ends."""
        while self._waiting:
            self._read_first()

    def _read_first(self) -> None:
        step, numbers, began = self._waiting.popleft()
        values = numbers()
        now = time.monotonic()
        began, self._last = max(began, self._last), now
        self._read(step, values, now - began)


def _later(numbers: Float[torch.Tensor, " n"]) -> Callable[[], list[float]]:
    """Queue a copy of the numbers to the host; return what waits for it alone and reads it."""
    if numbers.device.type != "cuda":
        return numbers.tolist
    host = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
    host.copy_(numbers, non_blocking=True)
    copied = torch.cuda.Event()
    copied.record()

    def read() -> list[float]:
        copied.synchronize()
        return host.tolist()

    return read
