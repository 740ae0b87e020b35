"""Measuring on several Ray workers: each has the models in memory and asks them about its share of the batches.

Batches are cut as one process cuts them and then dealt out, so a row's neighbours and its padding, and with them its
numbers, do not depend on how many workers there are. A lost worker is started again and asked again.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from ray.exceptions import RayActorError, RayTaskError

from ftlib.errors import ReglageError, TransientError
from ftlib.evaluation.forward_pass import Share, batches_of
from ftlib.evaluation.predictor import PredictionPlan, Predictor, threads_each
from ftlib.fingerprint import digest
from ftlib.kinds.outcomes import Outcomes, joined
from ftlib.kinds.outcomes_file import parse_outcomes
from ftlib.on_ray.cluster import nodes_here, told
from ftlib.on_ray.jobs import drive, run_job
from ftlib.on_ray.session import session
from ftlib.wording import counted
from ftlib.workspace import write_durably


def predict(plan: PredictionPlan) -> None:
    """Make the plan's tables on its workers; what is there is not made again.

    Raises what a worker raises, TransientError if one was lost more often than `compute.max_failures`.
    """
    if plan.compute.ray_address == "local":
        _predict_here(plan)
        return
    local = plan.model_copy(update={"compute": plan.compute.model_copy(update={"ray_address": "local"})})
    name = f"evaluate-{digest(list(plan.files))[:16]}"
    spec = Path(plan.files[0]).with_name(f"{name}.json")
    write_durably(spec, local.model_dump_json().encode())
    entrypoint = f"python -P -m ftlib.on_ray.evaluator {shlex.quote(str(spec))}"
    try:
        run_job(entrypoint, name, f"evaluation {plan.name}", plan.compute)
    finally:
        spec.unlink(missing_ok=True)


def _predict_here(plan: PredictionPlan) -> None:
    with session(plan.compute):
        workers = _start(plan)
        try:
            plan.make(lambda candidate: _together(plan, workers, candidate))
        finally:
            for worker in workers:
                ray.kill(worker)


def _start(plan: PredictionPlan) -> list[Any]:
    actor: Any = ray.remote(_Worker)
    compute = plan.compute
    options = actor.options(
        num_cpus=threads_each(compute),
        num_gpus=1 if compute.use_gpu else 0,
        max_restarts=compute.max_failures,
        max_task_retries=compute.max_failures,
    )
    workers = [options.remote(plan.model_dump_json()) for _ in range(compute.evaluation_workers)]
    _wait_for(plan, workers)
    return workers


def _wait_for(plan: PredictionPlan, workers: list[Any]) -> None:
    """Wait until every worker runs. Raises TransientError if the cluster has had no room for one for too long."""
    compute = plan.compute
    asked = [worker.__ray_ready__.remote() for worker in workers]
    seconds = compute.start_timeout_seconds * (compute.max_failures + 1)
    _, missing = ray.wait(asked, num_returns=len(asked), timeout=seconds)
    if missing:
        raise TransientError(
            f"evaluation {plan.name}: {len(missing)} of {counted(len(asked), 'worker')} did not start in {seconds:g} "
            f"s: each asks for {threads_each(compute)} CPUs{' and 1 GPU' if compute.use_gpu else ''}, and "
            f"{told('the cluster', nodes_here())}; lower compute.evaluation_workers or compute.threads, or raise "
            "compute.start_timeout_seconds if nodes are still to come"
        )


class _Worker:
    """One worker. What it says travels as bytes of our own making."""

    def __init__(self, plan: str) -> None:
        self._plan = PredictionPlan.model_validate_json(plan)
        torch.set_num_threads(threads_each(self._plan.compute))
        self._predictor = Predictor(self._plan, torch.device("cuda" if self._plan.compute.use_gpu else "cpu"))

    def part(self, candidate: int, share: int, of: int) -> bytes:
        return self._predictor.table(candidate, share=Share(share, of)).to_parquet()


def _together(plan: PredictionPlan, workers: list[Any], candidate: int) -> Outcomes:
    """Return the candidate's whole table, in the split's order."""
    of = len(workers)
    waiting = {worker.part.remote(candidate, i, of): i for i, worker in enumerate(workers)}
    parts: dict[int, Outcomes] = {}
    while len(parts) < of:
        (done,), _ = ray.wait([one for one, i in waiting.items() if i not in parts])
        parts[waiting[done]] = parse_outcomes(_get(plan, done))
        plan.report(candidate, sum(map(len, parts.values())))
    split = plan.rows(candidate)
    order = np.concatenate([np.sort(np.concatenate([*batches_of(split, Share(i, of)), _NONE])) for i in range(of)])
    return joined([parts[i] for i in range(of)]).take(np.argsort(order))


_NONE = np.zeros(0, np.int64)


def _get(plan: PredictionPlan, reference: Any) -> bytes:
    try:
        return ray.get(reference)
    except RayTaskError as error:
        if isinstance(error.cause, ReglageError):
            raise error.cause from None
        raise
    except RayActorError as error:
        raise TransientError(
            f"evaluation {plan.name}: a worker was lost more than {plan.compute.max_failures} times; "
            "tables that were finished are kept, and the next run goes on from there"
        ) from error


if __name__ == "__main__":
    drive(PredictionPlan, _predict_here)
