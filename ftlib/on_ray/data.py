"""Passes over rows on Ray Data: what travels are calls and small answers; rows lie in files of the work folder.

Ray Data deals the calls out to `compute.data_workers` tasks at a time, makes a lost one again, and gives the answers
in order.
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar, cast

import cloudpickle
import ray.data
from ray.exceptions import RayError

from ftlib.data.passes.executor import room
from ftlib.errors import ReglageError, TransientError, first_line
from ftlib.on_ray.session import session as session
from ftlib.training.compute import Compute

T = TypeVar("T")
R = TypeVar("R")

_CPUS = 1


class _Raised(NamedTuple):
    """What a call raised; Ray would try most of it again, or print it."""

    error: BaseException


class RayData:
    """Maps functions on the Ray that this process has joined."""

    def __init__(self, compute: Compute) -> None:
        self.workers = compute.data_workers
        self.memory = room(compute.data_worker_memory_mb)
        self._compute = compute

    def map(self, function: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
        """Yield what the function says of each item, in order. Raises TransientError where workers are lost too often."""
        if not items:
            return
        calls = ray.data.from_items([{"call": pickle.dumps(item)} for item in items], override_num_blocks=len(items))
        context = calls.context
        _quiet(context)
        context.execution_options.preserve_order = True
        context.execution_options.resource_limits = ray.data.ExecutionResources(cpu=self.workers * _CPUS)
        answers = calls.map(
            _Call(cloudpickle.dumps(function)),
            compute=ray.data.TaskPoolStrategy(size=min(self.workers, len(items))),
            num_cpus=_CPUS,
            memory=self._compute.data_worker_memory_mb << 20,
            ray_remote_args_fn=lambda: {"max_retries": self._compute.max_failures},
        )
        try:
            for row in answers.iter_rows():
                answer: Any = pickle.loads(cast("dict[str, bytes]", row)["answer"])
                if isinstance(answer, _Raised):
                    raise answer.error
                yield answer
        except RayError as error:
            raise TransientError(
                f"rows: a worker was lost more than {self._compute.max_failures} times ({first_line(error)}); give it "
                "more memory or fewer workers beside it (compute.data_workers), and run again"
            ) from error


class _Call:
    """A pass's function, as it travels."""

    def __init__(self, function: bytes) -> None:
        self._function = function

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        try:
            answer: object = cloudpickle.loads(self._function)(pickle.loads(row["call"]))
        except Exception as error:
            answer = _Raised(error if isinstance(error, ReglageError | OSError) else RuntimeError(repr(error)))
        return {"answer": pickle.dumps(answer)}


def _quiet(context: Any) -> None:
    """Keep Ray Data from printing: progress is told by the stage."""
    context.enable_progress_bars = context.enable_operator_progress_bars = False
    context.print_on_execution_start = False
    context.enable_auto_log_stats = context.verbose_stats_logs = False
    for name in ("ray.data", "ray.data._internal"):
        logging.getLogger(name).setLevel(logging.ERROR)
