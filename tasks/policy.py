"""When a stage's task is retried, how long it may take, and what its cache entry is called.

The key of Prefect's cache is the job's own fingerprint, nothing else: Prefect's default keys see only the task's
source and its pickled inputs, which differ between processes.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from prefect import Task
from prefect.cache_policies import NO_CACHE, CacheKeyFnPolicy
from prefect.client.schemas.objects import State
from prefect.context import TaskRunContext

from ftlib.artifacts import Artifact
from ftlib.errors import TransientError
from ftlib.fingerprint import Job
from ftlib.workspace import Workspace

J = TypeVar("J", bound=Job)
A = TypeVar("A", bound=Artifact)

HOUR = 3600.0


def stage_task(
    hours: float | None, *, cached: bool = True
) -> Callable[[Callable[[J, Workspace], A]], Task[[J, Workspace], A]]:
    """Make a Prefect task of a function that calls one stage.

    Args:
        hours: The longest it may take; on another thread than the main one `Runner.on_thread` holds it. None where
            the stage watches itself.
        cached: False where the work folder does not hold the whole truth: a registry may have lost its version.
    """

    def wrap(call: Callable[[J, Workspace], A]) -> Task[[J, Workspace], A]:
        return Task(
            call,
            cache_policy=CacheKeyFnPolicy(cache_key_fn=cache_key) if cached else NO_CACHE,
            persist_result=cached,
            result_serializer="json",
            retries=3,
            retry_delay_seconds=[1, 5, 30],
            retry_jitter_factor=0.5,
            retry_condition_fn=is_transient,
            timeout_seconds=None if hours is None else hours * HOUR,
        )

    return wrap


def cache_key(context: TaskRunContext, inputs: dict[str, Any]) -> str:
    """Return the job's stage and fingerprint."""
    return f"{inputs['job'].stage}-{inputs['job'].fingerprint}"


def is_transient(task: Task[..., Any], run: object, state: State[Any]) -> bool:
    """Retry exactly TransientError: a wrong recipe stays wrong."""
    return isinstance(state.result(raise_on_failure=False), TransientError)
