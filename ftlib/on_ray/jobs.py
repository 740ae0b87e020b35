"""Work on a Ray cluster, as a job that anyone can find by its name and stop."""

from __future__ import annotations

import json
import logging
import math
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import ray
from ray.job_submission import JobStatus, JobSubmissionClient

from ftlib.config import Config
from ftlib.errors import Interrupted, StorageError, TransientError, first_line
from ftlib.on_ray.cluster import NO_ANSWER, job_client
from ftlib.on_ray.session import driver_environment, job_config, worker_environment
from ftlib.storage.place import is_remote
from ftlib.training.checkpoints.run_place import ATTEMPTS
from ftlib.training.compute import Compute
from ftlib.workspace import Workspace, write_durably

P = TypeVar("P", bound=Config)


def drive(kind: type[P], act: Callable[[P, Workspace | None], None]) -> None:
    """Be the driver of a Ray job: join the cluster that started it, and act on the plan in the file it names.

    That is a file that every node sees, or an object of a work place in a bucket, which `act` is told then: what the
    job leaves on this node's disk for who asked for it is shared there. Raises StorageError where it is not there.
    """
    text, work = read_spec(sys.argv[1])
    plan = kind.model_validate(json.loads(text))
    # Inside a job, Ray names the cluster in RAY_ADDRESS.
    ray.init(log_to_driver=False, logging_level=logging.ERROR, job_config=job_config())
    act(plan, work)


JOBS = "jobs"
_NODE = "reglage-node-view:f9a03c2e/"
"""Stands in a plan that travels for the folder where a node sees the work place."""


def read_spec(spec: str) -> tuple[str, Workspace | None]:
    """Return a plan in JSON, with paths as this node has them, and the work place in a bucket that it came through.

    Raises StorageError where it is not there.
    """
    if not is_remote(spec):
        return Path(spec).read_text(), None
    inside = re.fullmatch(rf"(.+)/((?:{JOBS}|{ATTEMPTS})/.+)", spec)
    work = Workspace(inside[1]) if inside else None
    data = None if work is None or work.store is None or inside is None else work.store.read(inside[2])
    if data is None or work is None:
        raise StorageError(f"{spec} is not there, or not any more; run again")
    return data.decode().replace(f'"{_NODE}', f'"{work.root}/'), work


def share_made(work: Workspace | None, files: Iterable[Path]) -> None:
    """Let who asked for a job have those of its files that are there; where all see one folder they have."""
    if work is not None:
        for file in files:
            relative = file.relative_to(work.root).as_posix()
            if file.exists() and file.name not in work.names(Path(relative).parent):
                work.share(relative)


STARTED_BY = "PREFECT__FLOW_RUN_ID"
"""The environment variable that names the run this process is, where something started it that will know; else none."""
STOPPING_SECONDS = 15.0
"""How long a job that was asked to end may take."""
_AWAY_SECONDS = 300.0
"""How long a cluster with a job of ours may give no answer: as long as its head takes to be started anew."""


def run_job(
    entrypoint: str,
    name: str,
    what: str,
    compute: Compute,
    asked_to_stop: Callable[[], bool] = lambda: False,
    *,
    place: str = "",
    kms_key: str | None = None,
) -> None:
    """Run a command on the cluster, or go on watching the one that is there: a retry must not start two.

    `place` is where the command works, if that tells one from the next of the same name: the job of an attempt that
    was given up is stopped first. The job, and whatever it starts, writes to buckets with the key.

    Raises TransientError, which says `what` failed, if the cluster takes no job, the job does not succeed, or nobody
    can say for minutes what became of it, and Interrupted if it was asked to stop, by a word of its own, and did not.
    """
    client = job_client(compute.ray_address)
    try:
        job = _running(client, name, place) or client.submit_job(
            entrypoint=entrypoint,
            submission_id=f"{name}-{int(time.time())}",
            runtime_env={"env_vars": {**worker_environment(kms_key), **driver_environment(compute)}},
            metadata={"reglage_run": name, "place": place, "started_by": os.environ.get(STARTED_BY, "")},
        )
    except NO_ANSWER as error:  # a head that has just started has no agent yet
        raise TransientError(
            f"{what}: {compute.ray_address} takes no job ({first_line(error)[:200]}); look at `ray status` there, and "
            "run again"
        ) from error
    try:
        status = _end_of(client, job, what, compute, asked_to_stop)
    except TransientError:  # it may go on where nobody can be asked: the next run goes on watching it
        raise
    except BaseException:  # Ctrl-C, Prefect's cancellation: the job must not outlive the run that asked for it
        with suppress(*NO_ANSWER):
            client.stop_job(job)
        raise
    if status is not JobStatus.SUCCEEDED:
        raise TransientError(f"{what}: Ray job {job} ended as {status}: {_last_line(client, job)}")


def _end_of(
    client: JobSubmissionClient, job: str, what: str, compute: Compute, asked_to_stop: Callable[[], bool]
) -> JobStatus:
    """Wait until a job ends; a cluster, or a bucket with the wish to stop, that gives no answer is asked again.

    Raises TransientError at once where the cluster knows the job no more: its head was started anew.
    """
    asked, answered = math.inf, time.monotonic()
    while True:
        try:
            if (status := client.get_job_status(job)).is_terminal():
                return status
            asked = min(asked, time.monotonic()) if asked_to_stop() else math.inf
            answered = time.monotonic()
        except (*NO_ANSWER, TransientError) as error:
            if f"{job} does not exist" in str(error):
                raise TransientError(f"{what}: {compute.ray_address} was started anew, and its job is lost") from error
            if time.monotonic() - answered > _AWAY_SECONDS:
                raise TransientError(
                    f"{what}: {compute.ray_address} does not say what became of {job} ({first_line(error)[:200]}); "
                    "look at `ray status` there, and run again: a job that goes on is not started twice"
                ) from error
        if time.monotonic() - asked > STOPPING_SECONDS:
            raise Interrupted(f"{what}: stopped on request; the next run goes on from the last checkpoint")
        time.sleep(1.0)


def _last_line(client: JobSubmissionClient, job: str) -> str:
    lines: list[str] = []
    with suppress(*NO_ANSWER):
        lines = client.get_job_logs(job).strip().splitlines()
    return lines[-1][:300] if lines else "no log"


def run_plan(
    module: str, plan: str, file: Path, what: str, compute: Compute, work: Workspace, made: Sequence[Path] = ()
) -> None:
    """Run a module's `drive` as a job over a plan in JSON, which lies in a file of the work place while it runs.

    The job is called as the file. `made` are the files that it leaves: of a work place in a bucket they are fetched.
    Raises what `run_job` raises.
    """
    name = f"{JOBS}/{file.name}"
    if work.store is None:
        write_durably(file, plan.encode())
    else:
        work.store.write(name, plan.replace(f'"{work.root}/', f'"{_NODE}').encode())
    spec = str(file) if work.store is None else f"{work.store.uri}/{name}"
    try:
        run_job(f"python -P -m {module} {shlex.quote(spec)}", file.stem, what, compute, kms_key=work.place.kms_key)
    finally:
        if work.store is None:
            file.unlink(missing_ok=True)
        else:
            work.store.discard(name)
    for path in made:
        work.shared(path.relative_to(work.root))


def _running(client: JobSubmissionClient, name: str, place: str) -> str | None:
    """Return the job of a name and a place that has not ended; one of the name and another place is stopped."""
    for job in client.list_jobs():
        about = job.metadata or {}
        if job.submission_id and about.get("reglage_run") == name and not job.status.is_terminal():
            if about.get("place", place) == place:
                return job.submission_id
            client.stop_job(job.submission_id)
            ends = time.monotonic() + STOPPING_SECONDS
            while not client.get_job_status(job.submission_id).is_terminal() and time.monotonic() < ends:
                time.sleep(1.0)
    return None


def stop_orphans(address: str, ended: Callable[[str], bool], *, stop: bool) -> list[str]:
    """Return the jobs of ours on a cluster whose run has ended; with `stop`, stop them.

    `ended` says so of a run by the name that its process had in STARTED_BY; a job that was started otherwise, from a
    command line, is left alone. Raises TransientError if the cluster does not answer.
    """
    client = job_client(address)
    orphans: list[str] = []
    for job in client.list_jobs():
        by = (job.metadata or {}).get("started_by")
        if job.submission_id and by and not job.status.is_terminal() and ended(by):
            orphans.append(job.submission_id)
            if stop:
                client.stop_job(job.submission_id)
    return orphans
