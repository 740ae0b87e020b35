"""BatchNorm statistics measured on a Ray worker: where the candidates are evaluated, and where the GPU is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ray

from ftlib.evaluation.batch_norm import StatisticsPlan, measure_here
from ftlib.evaluation.inference import threads_each
from ftlib.fingerprint import digest
from ftlib.on_ray.answers import answer_of
from ftlib.on_ray.jobs import drive, run_plan, share_made
from ftlib.on_ray.session import session
from ftlib.workspace import Workspace, write_durably

_WHAT = "batch_norm"


def measure(asked: StatisticsPlan, work: Workspace) -> None:
    """Measure on one worker what is not there: the rows are one batch, which is not dealt out.

    Raises what the worker raises, TransientError if it was lost more often than `compute.max_failures`.
    """
    plan = work.carried(asked)
    if plan.compute.ray_address == "local":
        _measure_here(plan)
        return
    local = plan.model_copy(update={"compute": plan.compute.model_copy(update={"ray_address": "local"})})
    file = Path(plan.files[0]).with_name(f"batch-norm-{digest(list(plan.files))[:16]}.json")
    made = [Path(file) for file in plan.files]
    run_plan("ftlib.on_ray.statistics", local.model_dump_json(), file, _WHAT, plan.compute, work, made)


def _measure_here(plan: StatisticsPlan, work: Workspace | None = None) -> None:
    """Measure in one task of the session's Ray, and raise its own error where that is one of ours.

    What it measured comes back as bytes, since its node may have another disk.
    """
    compute = plan.compute
    task: Any = ray.remote(_of_json)
    one = plan.model_copy(update={"compute": compute.model_copy(update={"threads": threads_each(compute)})})
    with session(compute):
        options = task.options(
            num_cpus=threads_each(compute), num_gpus=1 if compute.use_gpu else 0, max_retries=compute.max_failures
        )
        files = answer_of(options.remote(one.model_dump_json()), _WHAT, compute)
    for path, data in zip(map(Path, plan.files), files, strict=True):
        if not path.exists():
            write_durably(path, data)
    share_made(work, map(Path, plan.files))


def _of_json(plan: str) -> list[bytes]:
    asked = StatisticsPlan.model_validate_json(plan)
    measure_here(asked)
    return [Path(file).read_bytes() for file in asked.files]


if __name__ == "__main__":
    drive(StatisticsPlan, _measure_here)
