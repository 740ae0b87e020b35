"""A Ray of this run's own, started and ended from the flow's body."""

from __future__ import annotations

import contextlib
import fcntl
import io
import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any, cast

import ray
from ray._private import ray_constants
from ray.job_config import JobConfig

from ftlib.errors import TransientError, first_line
from ftlib.on_ray.guard import guarded
from ftlib.storage import encryption
from ftlib.storage.locks import flocked
from ftlib.training.compute import Compute
from ftlib.training.reproducible import CUBLAS, CUBLAS_VALUE

_POLL_SECONDS = 0.2
"""Ray's controller looks at its workers this often; its default of 2 s is also what a finished run waits for."""

_ELASTIC_START_SECONDS = 20.0
"""How long workers whose number may change may take to start, once there is room for them."""

_PREFIX, _LOCK = "reglage-ray-", ".lock"
_LONGEST_ROOT = 15
"""Characters: the paths of the sockets below it, 87 more, must fit into 107."""


@contextlib.contextmanager
def session(compute: Compute) -> Generator[None]:
    """Have a Ray to train on while the block runs. Call it from the main thread.

    `ray.init` takes SIGTERM for itself, and with it Prefect's cancellation: the handlers are put back. The address is
    explicit, since `ray.init()` alone attaches to any cluster of this machine, whoever owns it. Raises TransientError
    where Ray does not start.
    """
    if compute.ray_address != "local" or ray.is_initialized():
        yield
        return
    with _own_folder() as folder:
        _start(compute, folder)
        try:
            with without_ray():
                yield
        finally:
            ray.shutdown()


def _start(compute: Compute, folder: str) -> None:
    """Start a local Ray on the loopback, and put back the signal handlers and the umask that it was started under."""
    handlers = {s: signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)} if _in_main_thread() else {}
    # Ray gives a worker one OpenMP thread per CPU it asks for, so it must be able to ask for what `threads` says.
    workers = max(compute.most_workers, compute.evaluation_workers)
    cpus = max(os.cpu_count() or 1, workers * (compute.threads or 1))
    mask = os.umask(0o077)  # Ray writes its access token for this user alone, or not at all
    os.environ.update(driver_environment(compute))
    # Without it a local Ray opens a dozen ports on every interface; with it the node's address is this machine's
    # loopback, also on Linux. Ray reads the variable once, when somebody imports it, which may be long before this.
    networked, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    try:
        ray.init(
            address="local",
            num_cpus=cpus,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"env_vars": worker_environment()},
            job_config=job_config(),
            _temp_dir=folder,
        )
    except Exception as error:  # Ray raises the bare class for a node that is too slow to start
        raise TransientError(
            f"Ray did not start on this machine: {first_line(error)}; run again when it has less to do, or set "
            "compute.workers: 0"
        ) from error
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = networked
        os.umask(mask)
        for number, handler in handlers.items():
            signal.signal(number, handler)


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


@contextlib.contextmanager
def _own_folder() -> Generator[str]:
    """Give Ray's session a folder that nobody else can look into, and that is gone with it.

    Ray opens the one it is given to everybody, so that lies in one of ours, and keeps it for ever. What killed runs
    left is removed: its lock is free.
    """
    root = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    root = root if len(root) <= _LONGEST_ROOT else "/tmp"
    for left in Path(root).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError), left.joinpath(_LOCK).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=root))
    with flocked(folder / _LOCK):  # made anew, folder too, where another run has taken it for a dead one's just before
        try:
            with guarded(str(folder / "r")):  # not the lock: other runs open it to see whether it is free
                yield str(folder / "r")
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def job_config() -> JobConfig:
    """Return a driver's settings with which workers do not look into its working folder for what they import.

    Ray puts that folder first in every worker's path: a project's own `flows`, `tasks` or `ftlib` would be ours.
    """
    config = JobConfig()
    cast(Any, config)._py_driver_sys_path = _WithoutWorkingFolder()
    return config


class _WithoutWorkingFolder(list[str]):
    def extend(self, values: Iterable[str], /) -> None:
        super().extend(value for value in values if value != str(Path.cwd()))


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def worker_environment(kms_key: str | None = None) -> dict[str, str]:
    """Return what must be the same in every worker: idle threads that spin take the core another worker needs."""
    return {
        "OMP_WAIT_POLICY": "PASSIVE",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "PYTHONSAFEPATH": "1",
        CUBLAS: CUBLAS_VALUE,
        **encryption.environment(kms_key),
    }


def driver_environment(compute: Compute) -> dict[str, str]:
    """Return what Ray Train reads where `fit` is called, and nowhere else."""
    return {
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": str(_POLL_SECONDS),
        # Ray's agents end with the raylet at once, by a closed pipe; by looking now and then it takes them seconds.
        "RAY_enable_pipe_based_agent_to_parent_health_check": "1",
        # After a node died Ray asks for as many workers as before until this is over, and for fewer only then.
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(
            min(compute.start_timeout_seconds, _ELASTIC_START_SECONDS)
            if compute.is_elastic
            else compute.start_timeout_seconds
        ),
    }
