"""One MLflow run for one run of a recipe: parameters, curves and evaluations, whatever attempts it took.

MLflow only appends. A resumed run gives the same numbers to the bit, so that steps that the server has are left out,
and the run that it has is gone on with.
"""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Iterator
from typing import Any

from typing_extensions import override

from ftlib.errors import RecipeError
from ftlib.registry.mlflow import VERSION_TAG, mlflow_client
from ftlib.tracking.follower import Tracker
from ftlib.tracking.run_facts import RunFacts
from ftlib.tracking.state import Curve, RunState
from ftlib.urls import redacted, secret_in

RUN_TAG = "reglage.run"
"""The recipe's name and the run's key: one MLflow run has it."""
_METRICS, _PARAMETERS, _VALUE = 1000, 100, 6000
"""What the server takes at a time, and characters of a parameter's value."""
_STATUS = {"": "RUNNING", "finished": "FINISHED", "failed": "FAILED", "killed": "KILLED"}
_IMPATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
"""By itself the client asks for minutes."""


class MlflowRun(Tracker):
    """Speaks to a tracking server, or to a database (`sqlite:///mlflow.db`)."""

    def __init__(self, uri: str) -> None:
        """Take where to. Raises RecipeError if MLflow is absent, or the URI holds a secret or is a plain folder."""
        if secret := secret_in(uri):
            raise RecipeError(f"--mlflow is {secret}; give MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD")
        folder = "://" not in uri or uri.startswith("file:")
        if folder and os.environ.get("MLFLOW_ALLOW_FILE_STORE") != "true":
            raise RecipeError(
                f"--mlflow: {uri} is a folder, which MLflow no longer writes to by itself; give sqlite:///mlflow.db "
                "or a server, or set MLFLOW_ALLOW_FILE_STORE=true"
            )
        for name, value in _IMPATIENT.items():
            os.environ.setdefault(name, value)
        self._uri, self.name = uri, f"MLflow at {redacted(uri)}"
        self._client: Any = None
        self._run_id = ""
        self._status = ""
        self._steps: dict[str, int] = {}
        """By metric, the last step that the server has."""
        self._tags: dict[str, str] = {}
        if importlib.util.find_spec("mlflow") is None:
            raise RecipeError("MLflow is not installed; pip install 'reglage[mlflow]'")

    @override
    def show(self, state: RunState) -> None:
        """Send what the server does not have yet: numbers, then tags and parameters, then how the run ended."""
        from mlflow.entities import Metric, Param, RunTag

        if not self._run_id:
            self._open(state)
        new = [*self._new(state)]
        now = int(time.time() * 1000)
        for start in range(0, len(new), _METRICS):
            batch = new[start : start + _METRICS]
            self._client.log_batch(self._run_id, metrics=[Metric(key, value, now, step) for key, step, value in batch])
            self._steps |= {key: step for key, step, _ in batch}
        tags = _tags(state)
        if tags != self._tags:
            self._client.log_batch(self._run_id, tags=[RunTag(key, value) for key, value in tags.items()])
            parameters = [Param(_key(name), value[:_VALUE]) for name, value in state.parameters().items()]
            for start in range(0, len(parameters), _PARAMETERS):
                self._client.log_batch(self._run_id, params=parameters[start : start + _PARAMETERS])
            self._tags = tags
        if (status := _STATUS[state.ended]) != self._status:
            if state.ended:
                self._client.set_terminated(self._run_id, status)
            else:
                self._client.update_run(self._run_id, status)
            self._status = status

    @override
    def settle(self, state: RunState) -> None:
        self.show(state)

    def _open(self, state: RunState) -> None:
        """Find the run, or make it; of one that is found the last steps are asked for."""
        if self._client is None:
            self._client = mlflow_client(self._uri)
        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", "reglage")
        existing = self._client.get_experiment_by_name(experiment)
        experiment_id = existing.experiment_id if existing else self._client.create_experiment(experiment)
        mark = f"{state.recipe.name}/{state.key}"
        runs = self._client.search_runs([experiment_id], f"tags.`{RUN_TAG}` = '{mark}'", max_results=1)
        if runs:
            self._steps = {metric.key: metric.step for metric in runs[0].data._metric_objs}
        run = runs[0] if runs else self._client.create_run(experiment_id, tags={RUN_TAG: mark}, run_name=mark)
        self._run_id, self._status = run.info.run_id, run.info.status

    def _new(self, state: RunState) -> Iterator[tuple[str, int, float]]:
        """Yield (metric, step, value) of all that the server does not have, in the order of the steps."""
        for curve in state.curves:
            yield from self._of(curve)
        for split, metric, candidate, value, _, _ in state.evaluations():
            key = _key(f"{split}/{metric}/{candidate}")
            if key not in self._steps:
                yield key, 0, value
        if state.facts:
            yield from ((key, step, value) for key, step, value in _final(state.facts) if step > self._last(key))

    def _last(self, key: str) -> int:
        return self._steps.get(key, -1)

    def _of(self, curve: Curve) -> Iterator[tuple[str, int, float]]:
        for record in curve.records:
            step = int(record["step"])
            for name, value in record.items():
                key = _key(f"{curve.name}/{name}")
                if name != "step" and step > self._last(key):
                    yield key, step, float(value)


def _final(facts: RunFacts) -> Iterator[tuple[str, int, float]]:
    """Yield what the choice was measured at, with its interval, and what each run took, at its number.

    A run of the same recipe and data measures the same, so that is said once.
    """
    for metric, estimate in facts.metrics.items():
        for end, value in (("", estimate.value), (".low", estimate.low), (".high", estimate.high)):
            if value is not None:
                yield _key(f"final/{metric}") + end, 0, value
    took = {
        "cost": facts.cost.total if facts.cost else None,
        "seconds": facts.work_seconds,
        "memory_bytes": facts.memory_bytes,
        "predicted_memory_bytes": facts.predicted_memory_bytes,
    }
    for name, value in took.items():
        if value is not None:
            yield f"run/{name}", facts.number, float(value)


def _tags(state: RunState) -> dict[str, str]:
    tags = {f"reglage.training.{curve.name}": curve.fingerprint for curve in state.curves}
    if state.published:
        tags[VERSION_TAG] = state.published
    if facts := state.facts:
        tags |= {"reglage.name": facts.name, "reglage.state": facts.state}
        if facts.reason:
            tags["reglage.reason"] = facts.reason[:_VALUE]
        if facts.cost:
            tags["reglage.cost"] = facts.cost.line()
        if facts.state == "promoted":
            tags["reglage.alias"] = state.recipe.retrain.alias
    return tags


def _key(name: str) -> str:
    """Return a name as MLflow allows it: `alpha=0.2` is none."""
    return "".join(c if c.isalnum() or c in "_-. :/" else "_" for c in name)[:250]
