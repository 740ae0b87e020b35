"""A model asked by several threads of one process at once, about other batches each, over one copy of its weights.

Cores that share a batch wait for each other in each of its products; with batches of their own they do not. A lane is
one such thread's model: modules of its own, and the parameters and buffers of the model that it was made of.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from threading import Event
from typing import TypeVar

import torch
from torch import nn

T = TypeVar("T")
Ask = Callable[[Callable[[int], None]], T]
"""Answers in one lane, and tells on the way how many rows are done."""

MOST = 8
"""Lanes: each has a batch's activations in memory."""


def lane_of(model: nn.Module) -> nn.Module:
    """Return a model with modules of its own, and with the very tensors of another: who changes those changes both."""
    shared: dict[int, object] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, shared)


def side_by_side(asks: Sequence[Ask[T]], on_rows: Callable[[int], None]) -> list[T]:
    """Answer in one thread each, with an equal share of this thread's CPU threads; return the answers in their order.

    `on_rows` hears in this thread how many rows all lanes have done: what it raises ends them behind their batch. So
    does what one of them raises, which is raised here.
    """
    if len(asks) == 1:
        return [asks[0](on_rows)]
    threads, told, ends = torch.get_num_threads(), SimpleQueue[tuple[int, int] | None](), Event()

    def answered(lane: int, ask: Ask[T]) -> T:
        def tell(done: int) -> None:
            if ends.is_set():
                raise _Ended
            told.put((lane, done))

        torch.set_num_threads(max(1, threads // len(asks)))
        try:
            return ask(tell)
        except BaseException:
            ends.set()
            raise
        finally:
            told.put(None)

    with ThreadPoolExecutor(len(asks), thread_name_prefix="lanes") as pool:
        jobs = [pool.submit(answered, lane, ask) for lane, ask in enumerate(asks)]
        try:
            for done in _sums(told, len(asks)):
                on_rows(done)
        finally:
            ends.set()
    torch.set_num_threads(threads)  # which threads that begin later go by
    return _results(jobs)


class _Ended(Exception):
    """Another lane came to nothing."""


def _sums(told: SimpleQueue[tuple[int, int] | None], lanes: int) -> Iterator[int]:
    """Yield what all lanes have done, whenever one tells, until each has ended."""
    done = [0] * lanes
    while lanes:
        if (sign := told.get()) is None:
            lanes -= 1
        else:
            done[sign[0]] = sign[1]
            yield sum(done)


def _results(jobs: Sequence[Future[T]]) -> list[T]:
    errors = [error for job in jobs if (error := job.exception()) is not None]
    for error in errors:
        if not isinstance(error, _Ended):
            raise error
    return [job.result() for job in jobs]
