"""Questions of many requests, gathered into batches that one thread answers.

Whoever asks while a batch is answered shares the next one; only the first question after a pause waits a moment for
others. `serve.batch` does the same for one question a call, with metrics that take as long as a small model's answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple


class _Asked(NamedTuple):
    """One call's questions."""

    questions: Sequence[Any]
    answered: asyncio.Future[list[Any]]


class Batches:
    """Belongs to one event loop, which calls `ask`."""

    def __init__(self, answer: Callable[[Sequence[Any]], list[Any]], most: int, wait_seconds: float) -> None:
        """Answer by `answer`, in a thread of its own; `most` questions at once, or one call's where it has more."""
        self._answer, self._most, self._wait = answer, most, wait_seconds
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="reglage-answers")
        self._waiting = list[_Asked]()
        self._going: asyncio.Task[None] | None = None

    async def ask(self, questions: Sequence[Any]) -> list[Any]:
        """Return an answer for each. Raises what the batch raised that they were in."""
        loop = asyncio.get_running_loop()
        asked = _Asked(questions, loop.create_future())
        self._waiting.append(asked)
        if self._going is None:
            self._going = loop.create_task(self._all())
        return await asked.answered

    async def _all(self) -> None:
        """Answer until nobody waits."""
        await asyncio.sleep(self._wait if sum(len(one.questions) for one in self._waiting) < self._most else 0)
        while batch := self._next():
            try:
                questions = [one for asked in batch for one in asked.questions]
                loop = asyncio.get_running_loop()
                answers = iter(await loop.run_in_executor(self._thread, self._answer, questions))
                for asked in batch:
                    mine = [next(answers) for _ in asked.questions]
                    if not asked.answered.done():  # its caller has gone
                        asked.answered.set_result(mine)
            except Exception as error:
                for asked in batch:
                    if not asked.answered.done():
                        asked.answered.set_exception(error)
        self._going = None

    def _next(self) -> list[_Asked]:
        """Take whole calls, at least one and as many as fit into a batch."""
        taken, size = list[_Asked](), 0
        for asked in self._waiting:
            size += len(asked.questions)
            if taken and size > self._most:
                break
            taken.append(asked)
        del self._waiting[: len(taken)]
        return taken
