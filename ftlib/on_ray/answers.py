"""What a remote call gives back, or the error that a user should read."""

from __future__ import annotations

from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError, WorkerCrashedError

from ftlib.errors import ReglageError, TransientError, first_line
from ftlib.training.compute import Compute


def answer_of(reference: Any, what: str, compute: Compute) -> Any:
    """Wait for a remote call and return its answer.

    Raises the worker's own error where that is one of ours, and TransientError, which says `what` failed, if its worker
    was lost more often than `compute.max_failures`, or Ray could not go on: a node died, or memory ended.
    """
    try:
        return ray.get(reference)
    except RayTaskError as error:
        if isinstance(error.cause, ReglageError):
            raise error.cause from None
        raise
    except (RayActorError, WorkerCrashedError) as error:
        raise TransientError(
            f"{what}: a worker was lost more than {compute.max_failures} times; what was finished is kept, and the "
            "next run goes on from there"
        ) from error
    except RayError as error:
        raise TransientError(
            f"{what}: Ray ended the work ({first_line(error)[:200]}); what was finished is kept, and the next run goes "
            "on from there"
        ) from error
