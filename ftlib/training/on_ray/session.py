"""A Ray of this run's own, started and ended from the flow's body."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import signal
import sys
import threading
from collections.abc import Generator
from typing import Any

import ray

from ftlib.recipe_parts import Compute
from ftlib.training.reproducible import CUBLAS, CUBLAS_VALUE

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
    workers = max(compute.workers, compute.evaluation_workers)
    cpus = max(os.cpu_count() or 1, workers * (compute.threads or 1))
    mask = os.umask(0o077)  # Ray writes its access token for this user alone, or not at all
    os.environ.update(driver_environment(compute))
    try:
        ray.init(
            address="local",
            num_cpus=cpus,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"env_vars": worker_environment()},
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


def worker_environment() -> dict[str, str]:
    """Return what must be the same in every worker: idle threads that spin take the core another worker needs."""
    idle = {"OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    return {**idle, CUBLAS: CUBLAS_VALUE}


def driver_environment(compute: Compute) -> dict[str, str]:
    """Return what Ray Train reads where `fit` is called, and nowhere else."""
    return {
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": str(_POLL_SECONDS),
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(compute.start_timeout_seconds),
    }
