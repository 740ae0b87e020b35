"""Training on Ray Train v2.

Two ways in. `local`: a Ray of this run's own, started by `session` in the flow body and gone with it. `http://...`: a
cluster, where the training is a Ray job named after the run, so that anyone can find it and stop it. Either way the
workers write checkpoints and curves to the workspace themselves; Ray starts, watches and restarts them.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import socket
import struct
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import ray
import torch.distributed as dist
from ray.exceptions import RayActorError
from ray.train import ControllerError, FailureConfig, LoggingConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchConfig, TorchTrainer

from ftlib import errors
from ftlib.config import Config
from ftlib.errors import TransientError
from ftlib.on_ray.cluster import nodes_here, told
from ftlib.on_ray.jobs import drive, run_job
from ftlib.on_ray.session import session
from ftlib.training import curves
from ftlib.training.checkpoints.in_bucket import step_saved
from ftlib.training.fisher import measuring as fisher_pass
from ftlib.training.fisher.record import FisherPlan
from ftlib.training.group import backend_of
from ftlib.training.loops.heartbeat import lost
from ftlib.training.optimizer import total_steps
from ftlib.training.parts import drawn_from
from ftlib.training.plan import Plan
from ftlib.training.resources import Wanted, lacking
from ftlib.training.worker import threads, work

_SPEC = "job.json"
_SIOCGIFADDR = 0x8915
"""Linux's number for "what is the address of this interface"."""
_OF_CONNECTIONS = ("gloo", "Gloo", "NCCL", "DistNetworkError", "DistStoreError")
"""Words of a group that workers could not join."""
_RESIZE_SECONDS = 20.0
"""Between two looks whether there is room for more workers; a training that grows goes back to its last checkpoint."""
_STALE_STARTS = 3
"""Starts of a training with fewer workers that may fail while Ray still counts a node that died."""


def fit(plan: Plan, folder: Path) -> None:
    """Train the plan on its workers; the result is left at the run's place, as `worker.work` says.

    A curve that is written in a bucket is followed into `folder`.

    Raises TransientError if workers were lost more often than `max_failures`; the next attempt resumes.
    """
    sizes = [split.sizes for split in drawn_from(plan)]
    total = total_steps(sizes, plan.phase.optimizer, plan.seed)
    with curves.follow(plan.place, plan.phase.name, total, mirror=folder / curves.FILE):
        if plan.compute.ray_address == "local":
            _fit_here(plan, _OnThisMachine(rendezvous=str(_of_ray(plan) / "rendezvous")))
        else:
            _fit_as_job(plan)


def measure_fisher(plan: FisherPlan) -> None:
    """Measure a Fisher information on the workers of a training, with the model spread as there.

    Raises TransientError if workers were lost more often than `max_failures`.
    """
    if plan.compute.ray_address == "local":
        _fit_here(plan, _OnThisMachine(rendezvous=str(_of_ray(plan) / "rendezvous")))
    else:
        _fit_as_job(plan, "fisher")


def _of_ray(plan: Plan | FisherPlan) -> Path:
    """Return the folder that Ray Train and ranks of this machine meet in; other nodes never look into it."""
    return plan.place.folder / "ray"


class _Work(Config):
    """What workers do together, as it crosses to them in JSON."""

    plan: Plan | FisherPlan


def _fit_here(plan: Plan | FisherPlan, torch_config: TorchConfig) -> None:
    """Run Ray Train in this process's Ray. Raises TransientError if workers do not start, or were lost too often."""
    torch_config.backend = backend_of(plan.compute)
    torch_config.timeout_s = int(plan.compute.collective_timeout_seconds)
    least, most = plan.compute.least_workers, plan.compute.most_workers
    with session(plan.compute):  # of the flow's own, or a short one where a stage is called without a flow
        trainer = TorchTrainer(
            _train_worker,
            train_loop_config=_Work(plan=plan).model_dump(mode="json"),
            torch_config=torch_config,
            scaling_config=ScalingConfig(
                num_workers=(least, most) if plan.compute.is_elastic else most,
                elastic_resize_monitor_interval_s=max(_RESIZE_SECONDS, plan.compute.checkpoint_seconds),
                use_gpu=plan.compute.use_gpu,
                resources_per_worker={"CPU": threads(plan), **({"GPU": 1} if plan.compute.use_gpu else {})},
            ),
            run_config=RunConfig(
                name=plan.fingerprint,
                storage_path=str(_of_ray(plan)),
                failure_config=FailureConfig(
                    max_failures=plan.compute.max_failures,
                    # By default Ray asks for ever for workers that the cluster has no room for.
                    controller_failure_limit=plan.compute.max_failures + _STALE_STARTS * plan.compute.is_elastic,
                ),
                logging_config=LoggingConfig(log_level="ERROR"),
            ),
        )
        try:
            _wait_for_the_least(plan)
            trainer.fit()
        except ControllerError as error:
            raise TransientError(
                f"{plan.what}: its workers did not start in {plan.compute.max_failures + 1} attempts of "
                f"{plan.compute.start_timeout_seconds:g} s ({_reason(error)}): {_asked(plan)}, and "
                f"{told('the cluster', nodes_here())}; {_remedy(error)}"
            ) from error
        except TrainingFailedError as error:
            raise TransientError(
                f"{plan.what}: workers were lost more than {plan.compute.max_failures} times "
                f"({'; '.join([_reason(error), *_lost(plan, error)])}); {_goes_on(plan)}"
            ) from error


def _asked(plan: Plan | FisherPlan) -> Wanted:
    compute = plan.compute
    return Wanted("workers", compute.least_workers, threads(plan), int(compute.use_gpu), at_most=compute.most_workers)


def _remedy(error: ControllerError) -> str:
    """Say what helps: workers that run and do not reach each other need no more room."""
    if any(name in str(error) for name in _OF_CONNECTIONS):
        return (
            "they run, and do not reach each other: let nodes connect to one another on every port, or name their "
            "network's interface in GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME where Ray is started on them"
        )
    return "lower compute.workers or compute.threads, or raise compute.start_timeout_seconds if nodes are still to come"


def _wait_for_the_least(plan: Plan | FisherPlan) -> None:
    """Wait until there is room for as many workers as an elastic training needs: Ray itself would wait for ever.

    Raises TransientError when that takes longer than all attempts to start would.
    """
    compute = plan.compute
    if not compute.is_elastic:
        return
    wanted = _asked(plan)
    seconds = compute.start_timeout_seconds * (compute.max_failures + 1)
    ends = time.monotonic() + seconds
    while lacking([wanted], nodes_here()) is not None:
        if time.monotonic() > ends:
            raise TransientError(
                f"{plan.what}: {wanted}, and in {seconds:g} s there was no room for {compute.least_workers}: "
                f"{told('the cluster', nodes_here())}; lower compute.workers.at_least or compute.threads, or raise "
                "compute.start_timeout_seconds if nodes are still to come"
            )
        time.sleep(1.0)


@dataclass
class _AcrossNodes(TorchConfig):
    """Workers of several nodes: gloo listens where Ray reaches the node.

    By itself it takes the address of the machine's own name, which Debian calls 127.0.1.1 and which may have none:
    then it takes the loopback, where no other node finds it.
    """

    @property
    def backend_cls(self) -> type[Any]:
        return _MeetByAddress


class _MeetByAddress(TorchConfig().backend_cls):
    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        worker_group.execute(_name_interface)
        super().on_start(worker_group, backend_config)


def _name_interface() -> None:
    """Tell gloo the interface of this node's address, unless somebody did."""
    own = socket.inet_aton(ray.util.get_node_ip_address())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        for _, name in socket.if_nameindex():
            with suppress(OSError):  # it has no address
                answer = fcntl.ioctl(asked.fileno(), _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
                if answer[20:24] == own:
                    os.environ.setdefault("GLOO_SOCKET_IFNAME", name)


@dataclass
class _OnThisMachine(TorchConfig):
    """Workers that meet in a file: torch's store would listen on every interface, and ask nobody for a token."""

    rendezvous: str = ""

    @property
    def backend_cls(self) -> type[Any]:
        return _MeetInAFile


class _MeetInAFile(TorchConfig().backend_cls):
    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        file = f"{backend_config.rendezvous}-{uuid4().hex}"  # a group that starts again must not read the dead one's
        backend, of, timeout = backend_config.backend, len(worker_group), backend_config.timeout_s
        joining = [
            worker_group.execute_single_async(rank, _join, file, backend, rank, of, timeout) for rank in range(of)
        ]
        ray.get(joining)


def _join(file: str, backend: str, rank: int, of: int, timeout: int) -> None:
    """Join the group; its own connections stay on the loopback too, where the machine calls it by a usual name."""
    for name in {"lo", "lo0"} & {name for _, name in socket.if_nameindex()}:
        os.environ.update(GLOO_SOCKET_IFNAME=name, NCCL_SOCKET_IFNAME=name)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(of), LOCAL_WORLD_SIZE=str(of))
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    dist.init_process_group(
        backend, init_method=f"file://{file}", rank=rank, world_size=of, timeout=timedelta(seconds=timeout)
    )


def _reason(error: BaseException) -> str:
    """Return the last line of what Ray says, which is a traceback's: the worker's own words without our class."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].removeprefix(f"{errors.__name__}.{TransientError.__name__}: ")[:600] if lines else "no reason"


def _lost(plan: Plan | FisherPlan, error: TrainingFailedError) -> list[str]:
    """Say which ranks died, and where. Ray hears of a dead process long before its silence tells."""
    failures: dict[int, Exception] = getattr(error, "worker_failures", {})
    causes = {rank: getattr(failure, "health_check_failure", failure) for rank, failure in failures.items()}
    dead = [rank for rank, cause in causes.items() if isinstance(cause, RayActorError)]
    return [sign.last_heard for sign in lost(plan.place, dead)]


def _goes_on(plan: Plan | FisherPlan) -> str:
    step = step_saved(plan.place)
    return f"the next run goes on from step {step}, in {plan.run}" if step else "no step was saved yet: it starts again"


def _train_worker(config: dict[str, Any]) -> None:
    plan = _Work.model_validate(config).plan
    if isinstance(plan, Plan):
        work(plan)
    else:
        fisher_pass.work(plan)


def _fit_as_job(plan: Plan | FisherPlan, called: str = "train") -> None:
    place = plan.place
    local = plan.model_copy(update={"compute": plan.compute.model_copy(update={"ray_address": "local"})})
    place.write(_SPEC, _Work(plan=local).model_dump_json().encode())
    entrypoint = f"python -P -m ftlib.on_ray.trainer {shlex.quote(place.name_of(_SPEC))}"
    asked_to_stop = partial(place.has, curves.STOP)
    run_job(
        entrypoint,
        f"{called}-{plan.fingerprint}",
        plan.what,
        plan.compute,
        asked_to_stop,
        place=plan.run,
        kms_key=plan.kms_key,
    )


if __name__ == "__main__":
    drive(_Work, lambda asked, _: _fit_here(asked.plan, _AcrossNodes()))
