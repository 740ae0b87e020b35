"""Inference on several Ray workers: each has the models in memory and asks them about its share of the batches.

Batches are cut as one process cuts them and then dealt out, so a row's neighbours and its padding, and with them its
numbers, do not depend on how many workers there are. A lost worker is started again and asked again.
"""

from __future__ import annotations

from typing import Any

import ray
import torch
from pydantic import Field

from ftlib.config import Config
from ftlib.errors import TransientError
from ftlib.evaluation.forward_pass import Share
from ftlib.evaluation.inference import InferencePlan, threads_each
from ftlib.evaluation.predictor import PredictionPlan
from ftlib.evaluation.revisions import RevisePlan
from ftlib.evaluation.row_scores import ScorePlan
from ftlib.evaluation.written_answers import WritePlan
from ftlib.on_ray.answers import answer_of
from ftlib.on_ray.cluster import nodes_here, told
from ftlib.on_ray.jobs import drive, run_plan, share_made
from ftlib.on_ray.session import session
from ftlib.storage.files import private_folder
from ftlib.wording import counted
from ftlib.workspace import Workspace


class _Spec(Config):
    """A plan as it crosses to a worker or to a cluster's driver."""

    plan: PredictionPlan | ScorePlan | WritePlan | RevisePlan = Field(discriminator="kind")


def infer(asked: InferencePlan[Any], work: Workspace) -> None:
    """Answer the plan on its workers; a table that is there is not made again.

    Raises what a worker raises, TransientError if one was lost more often than `compute.max_failures`.
    """
    plan = work.carried(asked)
    if plan.compute.ray_address == "local":
        _infer_here(plan)
        return
    local = plan.model_copy(update={"compute": plan.compute.model_copy(update={"ray_address": "local"})})
    run_plan("ftlib.on_ray.evaluator", _spec(local), plan.job_file, plan.what, plan.compute, work, plan.made)


def _spec(plan: InferencePlan[Any]) -> str:
    return _Spec.model_validate({"plan": plan}).model_dump_json()


def _infer_here(plan: InferencePlan[Any], work: Workspace | None = None) -> None:
    """Answer the plan here; as a job at a work place in a bucket, go on from what an earlier job made, and share it."""
    if work is not None:
        for path in plan.made:
            private_folder(path.parent)
            work.shared(path.relative_to(work.root))

    def answered(item: int) -> Any:
        share_made(work, plan.made)
        return _together(plan, workers, item)

    with session(plan.compute):
        workers = _start(plan)
        try:
            plan.make(answered)
            share_made(work, plan.made)
        finally:
            for worker in workers:
                ray.kill(worker)


def _start(plan: InferencePlan[Any]) -> list[Any]:
    actor: Any = ray.remote(_Worker)
    compute = plan.compute
    options = actor.options(
        num_cpus=threads_each(compute),
        num_gpus=1 if compute.use_gpu else 0,
        max_restarts=compute.max_failures,
        max_task_retries=compute.max_failures,
    )
    workers = [options.remote(_spec(plan)) for _ in range(compute.evaluation_workers)]
    _wait_for(plan, workers)
    return workers


def _wait_for(plan: InferencePlan[Any], workers: list[Any]) -> None:
    """Wait until every worker runs. Raises TransientError if the cluster has had no room for one for too long."""
    compute = plan.compute
    asked = [worker.__ray_ready__.remote() for worker in workers]
    seconds = compute.start_timeout_seconds * (compute.max_failures + 1)
    _, missing = ray.wait(asked, num_returns=len(asked), timeout=seconds)
    if missing:
        raise TransientError(
            f"{plan.what}: {len(missing)} of {counted(len(asked), 'worker')} did not start in {seconds:g} "
            f"s: each asks for {threads_each(compute)} CPUs{' and 1 GPU' if compute.use_gpu else ''}, and "
            f"{told('the cluster', nodes_here())}; lower compute.evaluation_workers or compute.threads, or raise "
            "compute.start_timeout_seconds if nodes are still to come"
        )


class _Worker:
    """One worker. What it says travels as bytes of our own making."""

    def __init__(self, spec: str) -> None:
        self._plan = _Spec.model_validate_json(spec).plan
        torch.set_num_threads(threads_each(self._plan.compute))
        self._models = self._plan.models(torch.device("cuda" if self._plan.compute.use_gpu else "cpu"))

    def part(self, item: int, share: int, of: int) -> tuple[int, bytes]:
        answer: Any = self._models.answer(item, share=Share(share, of))
        return len(answer), self._plan.to_bytes(answer)


def _together(plan: InferencePlan[Any], workers: list[Any], item: int) -> Any:
    """Return the item's whole answer, in the split's order."""
    of, done = len(workers), 0
    waiting = {worker.part.remote(item, i, of): i for i, worker in enumerate(workers)}
    parts: dict[int, bytes] = {}
    while len(parts) < of:
        (ready,), _ = ray.wait([reference for reference, i in waiting.items() if i not in parts])
        rows, parts[waiting[ready]] = answer_of(ready, plan.what, plan.compute)
        plan.report(item, done := done + rows)
    return plan.whole(item, [parts[i] for i in range(of)])


if __name__ == "__main__":
    drive(_Spec, lambda spec, work: _infer_here(spec.plan, work))
