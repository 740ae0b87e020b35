"""Who answers an input: the champion, or, for a share of them, the challenger."""

from __future__ import annotations

import hashlib
import queue
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from ftlib.serving.following import gently

T = TypeVar("T")

_MOST_WAITING = 256
_AT_ONCE = 16


def meets_challenger(request: str, share: float) -> bool:
    """Say whether a request is of the challenger's share: by its id alone, so that it always meets the same side."""
    drawn = int.from_bytes(hashlib.sha256(request.encode()).digest()[:8], "big")
    return drawn < share * 2**64


class Shadow(Generic[T]):
    """Asks the challenger what others were asked, in a thread that gets what they leave of the processor.

    An input for which there is no room is left out and counted: nobody waits for it.
    """

    def __init__(self, ask: Callable[[list[T]], object]) -> None:
        self._ask = ask
        self._waiting: queue.Queue[T] = queue.Queue(_MOST_WAITING)
        self.left_out = 0
        self._thread = threading.Thread(target=self._run, name="reglage-shadow", daemon=True)
        self._thread.start()

    def put(self, one: T) -> None:
        """Let it be asked some time."""
        try:
            self._waiting.put_nowait(one)
        except queue.Full:
            self.left_out += 1

    def _run(self) -> None:
        gently()
        while True:
            batch = [self._waiting.get()]
            while len(batch) < _AT_ONCE and not self._waiting.empty():
                batch.append(self._waiting.get())
            self._ask(batch)
