"""Training on Ray Train v2.

Two ways in. `local`: a Ray of this run's own, started by `session` in the flow body and gone with it. `http://...`: a
cluster, where the training is a Ray job named after the run, so that anyone can find it and stop it. Either way the
workers write checkpoints and curves to the workspace themselves; Ray starts, watches and restarts them.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from ray.train import ControllerError, FailureConfig, LoggingConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchConfig, TorchTrainer

from ftlib.errors import TransientError
from ftlib.training import curves
from ftlib.training.batches import PreparedSplit
from ftlib.training.on_ray.cluster import nodes_here, told
from ftlib.training.on_ray.jobs import drive, run_job
from ftlib.training.on_ray.session import session
from ftlib.training.optimizer import total_steps
from ftlib.training.plan import Plan
from ftlib.training.worker import threads, work


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
                failure_config=FailureConfig(
                    max_failures=plan.compute.max_failures,
                    # By default Ray asks for ever for workers that the cluster has no room for.
                    controller_failure_limit=plan.compute.max_failures,
                ),
                logging_config=LoggingConfig(log_level="ERROR"),
            ),
        )
        try:
            trainer.fit()
        except ControllerError as error:
            raise TransientError(
                f"phase {plan.phase.name}: its workers did not start in {plan.compute.max_failures + 1} attempts of "
                f"{plan.compute.start_timeout_seconds:g} s ({_reason(error)}): {plan.compute.workers} of "
                f"{threads(plan)} CPUs{' and 1 GPU' if plan.compute.use_gpu else ''} each are asked for, and "
                f"{told('the cluster', nodes_here())}; lower compute.workers or compute.threads, or raise "
                "compute.start_timeout_seconds if nodes are still to come"
            ) from error
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
    spec = Path(plan.run) / "job.json"
    spec.write_text(
        plan.model_copy(update={"compute": plan.compute.model_copy(update={"ray_address": "local"})}).model_dump_json()
    )
    entrypoint = f"python -P -m ftlib.training.on_ray.trainer {shlex.quote(str(spec))}"
    run_job(entrypoint, f"train-{plan.fingerprint}", f"phase {plan.phase.name}", plan.compute)


if __name__ == "__main__":
    drive(Plan, _fit_here)
