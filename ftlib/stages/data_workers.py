"""Who works on the rows of a stage: this process, `compute.data_workers` of Ray here, or those of a cluster."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from ftlib import errors
from ftlib.artifacts import Artifact
from ftlib.config import Config
from ftlib.data.passes.executor import Executor, InProcess
from ftlib.errors import ReglageError, TransientError
from ftlib.fingerprint import Job
from ftlib.training.compute import Compute
from ftlib.workspace import Workspace, write_durably

if TYPE_CHECKING:
    from pathlib import Path

J = TypeVar("J", bound=Job)
_FAILED = ".failed"


class StagePlan(Config):
    """A stage's job as it crosses to a cluster's driver."""

    work: str
    """The work place."""
    job: dict[str, Any]


@contextmanager
def data_executor(compute: Compute, work: Workspace) -> Generator[Executor]:
    """Have those who work on rows while the block runs."""
    if not compute.prepares_on_ray:
        yield InProcess()
        return
    from ftlib.on_ray.data import RayData
    from ftlib.on_ray.session import session

    with session(compute):
        shared = None if work.store is None else replace(work.place, key=f"{work.place.prefix}/exchange".lstrip("/"))
        yield RayData(compute, shared)


def run_on_cluster(module: str, job: Job, compute: Compute, work: Workspace, kind: type[Artifact]) -> None:
    """Have a job's stage run by a driver on the cluster that the recipe names, if one does and it is still to do.

    The driver is the stage's module, which calls `be_driver`.

    Raises what the stage raises there, TransientError if the cluster takes no job or loses it.
    """
    if not compute.prepares_on_ray or compute.ray_address == "local" or work.find(job, kind) is not None:
        return
    from ftlib.on_ray.jobs import run_plan

    local = work.carried(job.model_copy(update={"compute": compute.model_copy(update={"ray_address": "local"})}))
    plan = StagePlan(work=str(work), job=local.model_dump(mode="json"))
    file = _file(work, job)
    _forget_failure(work, job)
    try:
        run_plan(module, plan.model_dump_json(), file, job.stage, compute, work)
    except TransientError:
        if (failure := _taken(work, job)) is None:
            raise
        kind_of_error: type[ReglageError] = getattr(errors, failure["kind"], ReglageError)
        raise kind_of_error(failure["said"]) from None


def _file(work: Workspace, job: Job) -> Path:
    return work.root / "jobs" / f"{job.stage}-{job.fingerprint}.json"


def be_driver(kind: type[J], stage: Callable[[J, Workspace], Artifact]) -> None:
    """Be the driver of a stage on a cluster, whose workers it has the rows worked on by."""
    from ftlib.on_ray.jobs import drive

    drive(StagePlan, lambda plan, _: run_stage(plan, kind, stage))


def run_stage(plan: StagePlan, kind: type[J], stage: Callable[[J, Workspace], Artifact]) -> None:
    """Run a stage, which commits its output. Raises what it raises, and leaves that for whoever asked for it, too."""
    work, job = Workspace(plan.work), kind.model_validate(plan.job)
    try:
        stage(job, work)
    except ReglageError as error:
        _leave_failure(work, job, error)
        raise


def _leave_failure(work: Workspace, job: Job, error: ReglageError) -> None:
    data = json.dumps({"kind": type(error).__name__, "said": str(error)}).encode()
    path = _file(work, job).with_suffix(_FAILED)
    if work.store is None:
        write_durably(path, data)
    else:
        work.store.write(f"jobs/{path.name}", data)


def _taken(work: Workspace, job: Job) -> dict[str, str] | None:
    """Return what a driver has left since `_forget_failure`, and forget it."""
    path = _file(work, job).with_suffix(_FAILED)
    if work.store is not None:
        data = work.store.read(f"jobs/{path.name}")
    else:
        data = path.read_bytes() if path.exists() else None
    _forget_failure(work, job)
    return None if data is None else json.loads(data)


def _forget_failure(work: Workspace, job: Job) -> None:
    """Leave no failure that could be taken for a later submission's, which may end for another reason."""
    path = _file(work, job).with_suffix(_FAILED)
    if work.store is None:
        path.unlink(missing_ok=True)
    elif work.store.read(name := f"jobs/{path.name}") is not None and not work.store.discard(name):
        work.store.write(name, b"null")  # who may not delete may write
