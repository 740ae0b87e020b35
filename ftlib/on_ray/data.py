"""Passes over rows on Ray Data: what travels are calls and small answers; rows lie in files of the work place.

Ray Data deals the calls out to `compute.data_workers` tasks at a time, makes a lost one again, and gives the answers
in order.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar, cast

import cloudpickle
import ray.data
from ray._private.worker import global_worker
from ray.exceptions import RayError

from ftlib.data.passes.executor import room
from ftlib.errors import ReglageError, TransientError, first_line
from ftlib.on_ray.cluster import nodes_here, told
from ftlib.storage import Place
from ftlib.training.compute import Compute

T = TypeVar("T")
R = TypeVar("R")

_CPUS = 1
_OBJECT_BYTES = 256 << 20
"""What calls and answers may take of Ray's shared memory: beyond it Ray Data waits before it starts more."""


class _Raised(NamedTuple):
    """What a call raised; Ray would print it, and try again what will not change."""

    error: BaseException


class RayData:
    """Maps functions on the Ray that this process has joined."""

    def __init__(self, compute: Compute, shared: Place | None = None) -> None:
        """Take how many workers there are, and a place in a bucket for files that several machines hand on.

        Raises TransientError where the cluster has no room for a worker, now.
        """
        self.workers = compute.data_workers
        self.memory = room(compute.data_worker_memory_mb)
        self._compute = compute
        self._asked = compute.data_worker_memory_mb << 20
        nodes = nodes_here()
        self.shared = shared if len(nodes) > 1 else None
        if not any(node.get("CPU", 0) >= _CPUS and node.get("memory", 0) >= self._asked for node in nodes):
            raise TransientError(
                f"compute.data_workers: each asks for {_CPUS} CPU and {compute.data_worker_memory_mb} MB, and "
                f"{told('the cluster', nodes)} with at most {max(node.get('memory', 0) for node in nodes) / 2**20:.0f} "
                "MB; lower compute.data_worker_memory_mb, or wait until nodes have come"
            )

    def map(self, function: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
        """Yield what the function says of each item, in order.

        Raises what the first failed call raised, TransientError where its worker was lost too often.
        """
        if not items:
            return
        packed = [{"call": cloudpickle.dumps(item)} for item in items]
        calls = ray.data.from_items(packed, override_num_blocks=len(items))
        _set_limits(calls.context, self.workers)
        answers = calls.map(
            _Call(cloudpickle.dumps(function), self._compute.max_failures),
            compute=ray.data.TaskPoolStrategy(size=min(self.workers, len(items))),
            num_cpus=_CPUS,
            memory=self._asked,
        )
        rows = answers.iter_rows()
        try:
            for row in rows:
                answer: Any = cloudpickle.loads(cast("dict[str, bytes]", row)["answer"])
                if isinstance(answer, _Raised):
                    raise answer.error
                yield answer
        except RayError as error:
            raise TransientError(f"rows: Ray ended the work on them ({first_line(error)[:200]}); run again") from error


class _Call:
    """A pass's function, as it travels."""

    def __init__(self, function: bytes, max_failures: int) -> None:
        self._function = function
        self._max_failures = max_failures

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Make one call; Ray Data itself would start one whose worker is lost again for ever."""
        try:
            if cast(Any, global_worker).core_worker.get_current_task_attempt_number() > self._max_failures:
                raise TransientError(
                    f"rows: a worker was lost more than {self._max_failures} times; give it more memory "
                    "(compute.data_worker_memory_mb) or fewer beside it (compute.data_workers), and run again"
                )
            answer: object = _loaded(self._function)(cloudpickle.loads(row["call"]))
        except Exception as error:
            answer = _Raised(error if isinstance(error, ReglageError | OSError) else RuntimeError(repr(error)))
        return {"answer": cloudpickle.dumps(answer)}


@functools.lru_cache(maxsize=1)
def _loaded(function: bytes) -> Callable[[Any], object]:
    """Return the function, with what it has loaded for earlier calls in this process."""
    return cloudpickle.loads(function)


def _set_limits(context: Any, workers: int) -> None:
    """Say what Ray Data may take, and keep it from printing: progress is told by the stage."""
    options = context.execution_options
    options.preserve_order = True
    options.resource_limits = ray.data.ExecutionResources(cpu=workers * _CPUS, object_store_memory=_OBJECT_BYTES)
    context.enable_progress_bars = context.enable_operator_progress_bars = False
    context.print_on_execution_start = False
    context.enable_auto_log_stats = context.verbose_stats_logs = False
    context.max_errored_blocks = 0
    logging.getLogger("ray.data").setLevel(logging.ERROR)
