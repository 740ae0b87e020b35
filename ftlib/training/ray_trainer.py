"""Training on Ray Train v2: the only module that imports Ray.

Two ways in. `local`: a Ray of this run's own, started by `session` in the flow body and gone with it. `http://...`: a
cluster, where the training is a Ray job named after the run, so that anyone can find it and stop it. Either way the
workers write checkpoints and curves to the workspace themselves; Ray starts, watches and restarts them.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import ray
from ray.job_submission import JobStatus, JobSubmissionClient
from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchConfig, TorchTrainer

from ftlib.errors import TransientError
from ftlib.recipe import Compute
from ftlib.training import curves
from ftlib.training.batches import PreparedSplit
from ftlib.training.optimizer import total_steps
from ftlib.training.plan import Plan
from ftlib.training.worker import threads, work

_POLL_SECONDS = 0.2
"""Ray's controller looks at its workers this often; its default of 2 s is also what a finished run waits for."""


@contextlib.contextmanager
def session(compute: Compute) -> Generator[None]:
    """Have a Ray to train on while the block runs. Call it from the main thread.

    `ray.init` takes SIGTERM for itself, and with it Prefect's cancellation: the handlers are put back. The address is
    explicit, since `ray.init()` alone attaches to any cluster of this machine, whoever owns it.
    """
    if compute.ray_address != "local" or ray.is_initialized():
        yield
        return
    handlers = {s: signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)} if _in_main_thread() else {}
    # Ray gives a worker one OpenMP thread per CPU it asks for, so it must be able to ask for what `threads` says.
    cpus = max(os.cpu_count() or 1, compute.workers * (compute.threads or 1))
    mask = os.umask(0o077)  # Ray writes its access token for this user alone, or not at all
    os.environ.update(_driver_environment(compute))
    try:
        ray.init(
            address="local",
            num_cpus=cpus,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"env_vars": _worker_environment()},
        )
    finally:
        os.umask(mask)
        for number, handler in handlers.items():
            signal.signal(number, handler)
    try:
        with without_ray():
            yield
    finally:
        ray.shutdown()


def without_ray() -> contextlib.redirect_stdout[_WithoutRay]:
    """Keep what Ray's own threads print off standard output while the block runs."""
    return contextlib.redirect_stdout(_WithoutRay(sys.stdout))


class _WithoutRay(io.TextIOBase):
    """Standard output, less what Ray's own threads print when a worker is lost: that goes to the log.

    A script that reads one JSON object must not find Ray's words before it.
    """

    def __init__(self, stdout: Any) -> None:
        self._stdout = stdout

    def write(self, text: str) -> int:
        if not threading.current_thread().name.startswith("ray_"):
            return self._stdout.write(text)
        if text.strip():
            logging.getLogger(__name__).warning("%s", text.strip())
        return len(text)

    def flush(self) -> None:
        self._stdout.flush()

    def fileno(self) -> int:
        return self._stdout.fileno()

    def isatty(self) -> bool:
        return self._stdout.isatty()


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _worker_environment() -> dict[str, str]:
    """Return what must be the same in every worker: idle threads that spin take the core another worker needs."""
    return {"OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}


def _driver_environment(compute: Compute) -> dict[str, str]:
    """Return what Ray Train reads where `fit` is called, and nowhere else."""
    return {
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": str(_POLL_SECONDS),
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(compute.start_timeout_seconds),
    }


def fit(plan: Plan) -> None:
    """Train the plan on its workers; the result is left in the run's folder, as `worker.work` says.

    Raises TransientError if workers were lost more often than `max_failures`; the next attempt resumes.
    """
    rows = len(PreparedSplit(Path(plan.data) / "train.arrow", plan.labels))
    with curves.follow(Path(plan.run), plan.phase.name, total_steps(rows, plan.phase.optimizer)):
        if plan.compute.ray_address == "local":
            _fit_here(plan)
        else:
            _fit_as_job(plan)


def _fit_here(plan: Plan) -> None:
    with session(plan.compute):  # of the flow's own, or a short one where a stage is called without a flow
        trainer = TorchTrainer(
            _train_worker,
            train_loop_config=plan.model_dump(mode="json"),
            torch_config=TorchConfig(timeout_s=int(plan.compute.collective_timeout_seconds)),
            scaling_config=ScalingConfig(
                num_workers=plan.compute.workers,
                use_gpu=plan.compute.use_gpu,
                resources_per_worker={"CPU": threads(plan), **({"GPU": 1} if plan.compute.use_gpu else {})},
            ),
            run_config=RunConfig(
                name=plan.fingerprint,
                storage_path=str(Path(plan.run) / "ray"),
                failure_config=FailureConfig(max_failures=plan.compute.max_failures),
                logging_config=LoggingConfig(log_level="ERROR"),
            ),
        )
        try:
            trainer.fit()
        except TrainingFailedError as error:
            raise TransientError(
                f"phase {plan.phase.name}: workers were lost more than {plan.compute.max_failures} times "
                f"({_reason(error)}); the next run goes on from the last checkpoint in {plan.run}"
            ) from error


def _reason(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__


def _train_worker(config: dict[str, Any]) -> None:
    work(Plan.model_validate(config))


def _fit_as_job(plan: Plan) -> None:
    """Run the training as a job of the cluster, or go on watching the one that is there: a retry must not start two."""
    spec = Path(plan.run) / "job.json"
    spec.write_text(
        plan.model_copy(update={"compute": plan.compute.model_copy(update={"ray_address": "local"})}).model_dump_json()
    )
    client = JobSubmissionClient(plan.compute.ray_address)
    name = _running_job(client, plan.fingerprint) or client.submit_job(
        entrypoint=f"python -m ftlib.training.ray_trainer {shlex.quote(str(spec))}",
        submission_id=f"train-{plan.fingerprint}-{int(time.time())}",
        runtime_env={"env_vars": {**_worker_environment(), **_driver_environment(plan.compute)}},
        metadata={"reglage_run": plan.fingerprint},
    )
    try:
        while not (status := client.get_job_status(name)).is_terminal():
            time.sleep(1.0)
    except BaseException:  # Ctrl-C, Prefect's cancellation: the job must not outlive the run that asked for it
        client.stop_job(name)
        raise
    if status is not JobStatus.SUCCEEDED:
        lines = client.get_job_logs(name).strip().splitlines()
        reason = lines[-1][:300] if lines else "no log"
        raise TransientError(f"phase {plan.phase.name}: Ray job {name} ended as {status}: {reason}")


def _running_job(client: JobSubmissionClient, fingerprint: str) -> str | None:
    for job in client.list_jobs():
        if (
            job.submission_id
            and (job.metadata or {}).get("reglage_run") == fingerprint
            and not job.status.is_terminal()
        ):
            return job.submission_id
    return None


def main() -> None:
    """Be the driver of a Ray job: join the cluster that started it, and train."""
    plan = Plan.model_validate(json.loads(Path(sys.argv[1]).read_bytes()))
    ray.init(log_to_driver=False, logging_level=logging.ERROR)  # inside a job, Ray names the cluster in RAY_ADDRESS
    _fit_here(plan)


if __name__ == "__main__":
    main()
