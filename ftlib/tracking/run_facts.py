"""What the run index keeps of a run: small, written at the end of every run, also of one that failed or was refused."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Protocol

from ftlib.config import Config
from ftlib.costs.prices import Cost, Usage
from ftlib.evaluation.evaluation import Evaluation
from ftlib.evaluation.measured import Estimate, Measured
from ftlib.evaluation.results import retained_reference
from ftlib.fingerprint import digest, identify
from ftlib.models.checkpoint import Checkpoint
from ftlib.recipe.evidence import Evidence
from ftlib.recipe.recipe import Recipe
from ftlib.tracking.flattened import flat

_MEASURED, _PREDICTED = "measured_memory_bytes", "predicted_memory_bytes"


class Took(Protocol):
    """A stage call of a run, as the runner keeps account of it."""

    @property
    def stage(self) -> str:
        """Return what it does, for example `train tune`."""
        ...

    @property
    def done_before(self) -> bool:
        """Say whether an earlier run had made the output."""
        ...

    @property
    def seconds(self) -> float:
        """Return the wall time of the call."""
        ...

    @property
    def work_seconds(self) -> float:
        """Return the seconds of the stage's own work."""
        ...


class StageTime(Config):
    """One stage call of a run."""

    stage: str
    seconds: float
    """Of its own work in this run; 0 where it was done before."""
    done_before: bool


class Forgotten(Config):
    """One metric of what the model could do before, of the chosen candidate and of the base model."""

    before: float
    after: float


class RunFacts(Config):
    """One run."""

    recipe: str
    number: int = 0
    """Of the recipe's runs, counted from 1 as they ended; 0 of a run that left only `run.json`."""
    flow_run: str = ""
    """Prefect's id of it."""
    key: str = ""
    """8 hex digits of what the recipe asks for, wherever it runs: attempts of one run have the same."""
    state: str
    """published, refused, promoted, not promoted, skipped, held, waits for approval, failed, stopped, over budget."""
    reason: str = ""
    version: str = ""
    """`name@number`."""
    when: datetime
    """When it ended, by the clock of its machine. Nothing is ordered by it but where a user asks."""
    parameters: dict[str, str] = {}
    """The whole recipe, by dotted path."""
    chosen: str = ""
    alpha: float | None = None
    cells: dict[str, Measured] = {}
    """What was measured of the chosen candidate on the report splits, by evaluation, without its slices."""
    evaluations: dict[str, Evaluation] = {}
    """How that was measured."""
    seed: int = 0
    forgetting: dict[str, Forgotten] = {}
    """By `evaluation/metric` of role retained."""
    stages: tuple[StageTime, ...] = ()
    wall_seconds: float = 0.0
    """From the start of the flow to its end."""
    memory_bytes: int | None = None
    """The most that a worker of a training held beside its process, measured."""
    predicted_memory_bytes: int | None = None
    """The same, as it was predicted before the first step."""
    usage: Usage = Usage()
    cost: Cost | None = None
    """What this run used, by the prices of its day; None where there were none."""

    @property
    def name(self) -> str:
        """Return what commands call it: `recipe#3`."""
        return f"{self.recipe}#{self.number}" if self.number else self.recipe

    @property
    def metrics(self) -> dict[str, Estimate]:
        """Return what was measured of the chosen candidate, by `evaluation/metric`."""
        cells = self.cells.items()
        return {f"{name}/{metric}": value for name, cell in cells for metric, value in cell.metrics.items()}

    @property
    def work_seconds(self) -> float:
        """Return the seconds that the stages themselves took in this run."""
        return sum(stage.seconds for stage in self.stages)

    def on_top_of(self, earlier: RunFacts) -> RunFacts:
        """Return it with what an earlier attempt of the same flow run took: one that waited, or was tried again."""
        took = {stage.stage: stage.seconds for stage in earlier.stages}
        stages = tuple(
            stage.model_copy(update={"seconds": round(stage.seconds + took.pop(stage.stage, 0.0), 3)})
            for stage in self.stages
        )
        rest = tuple(stage for stage in earlier.stages if stage.stage in took)
        together = {
            "stages": (*rest, *stages),
            "usage": self.usage.plus(earlier.usage),
            "wall_seconds": round(self.wall_seconds + earlier.wall_seconds, 3),
        }
        return self.model_copy(update=together)

    def field(self, name: str) -> float | str | None:
        """Return what tables, filters and orders call `name`: a metric, a number, a word or a recipe's field."""
        if (metric := self.metrics.get(name)) is not None:
            return metric.value
        if name in self.forgetting:
            return self.forgetting[name].after
        known: dict[str, float | str | None] = {
            "run": self.name,
            "recipe": self.recipe,
            "number": float(self.number),
            "state": self.state,
            "version": self.version,
            "when": self.when.isoformat(),
            "chosen": self.chosen,
            "alpha": self.alpha,
            "seconds": self.work_seconds,
            "memory": None if self.memory_bytes is None else float(self.memory_bytes),
            "predicted_memory": None if self.predicted_memory_bytes is None else float(self.predicted_memory_bytes),
            "cost": self.cost.total if self.cost else None,
        }
        return known[name] if name in known else _number(self.parameters.get(name))


FIELDS = (
    *("run", "recipe", "number", "state", "version", "when", "chosen", "alpha", "seconds"),
    *("memory", "predicted_memory", "cost"),
)


def _number(text: str | None) -> float | str | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return text


def recipe_key(recipe: Recipe) -> str:
    """Return 8 hex digits of what a recipe asks for; where it runs changes no result, so `compute` is no part."""
    names = sorted({*type(recipe).model_fields} - {"compute"})
    return digest([[name, identify(getattr(recipe, name))] for name in names])[:8]


def asked(recipe: Recipe) -> dict[str, Any]:
    """Return the fields of a `RunFacts` that the recipe alone says."""
    return {
        "recipe": recipe.name,
        "key": recipe_key(recipe),
        "parameters": dict(flat(recipe.model_dump(mode="json"), "")),
    }


def found(evidence: Evidence) -> dict[str, Any]:
    """Return the fields that a run's evidence says."""
    recipe, chosen = evidence.recipe, evidence.selection.chosen
    cells = evidence.measured(chosen.name)

    def largest(fact: str) -> int | None:
        return max((int(one.facts[fact]) for one in evidence.checkpoints if one.facts.get(fact)), default=None)

    return {
        "chosen": chosen.name,
        "alpha": chosen.alpha,
        "cells": {name: cell.model_copy(update={"slices": {}}) for name, cell in cells.items()},
        "evaluations": recipe.evaluations,
        "seed": recipe.seed,
        "forgetting": _forgetting(evidence),
        "memory_bytes": largest(_MEASURED),
        "predicted_memory_bytes": largest(_PREDICTED),
    }


def _forgetting(evidence: Evidence) -> dict[str, Forgotten]:
    """Return each metric of what is to be retained, before the run and behind it; of those that are undefined, none."""
    reference: Checkpoint | None = retained_reference(evidence.checkpoints)
    if reference is None:
        return {}
    before, after = evidence.measured(reference.phase), evidence.measured(evidence.selection.chosen.name)
    pairs = {
        f"{name}/{metric}": (before[name].metrics[metric].value, value.value)
        for name, cell in after.items()
        if name in before and evidence.recipe.evaluations[name].role == "retained"
        for metric, value in cell.metrics.items()
        if metric in before[name].metrics
    }
    return {
        key: Forgotten(before=first, after=last)
        for key, (first, last) in pairs.items()
        if first is not None and last is not None
    }


def times(steps: Sequence[Took]) -> tuple[StageTime, ...]:
    """Return what stages took; a training that was resumed has its earlier attempts' seconds, which are not this run's.

    A call that waited for another run's work did none of it.
    """
    return tuple(
        StageTime(
            stage=step.stage,
            seconds=0.0 if step.done_before else min(step.work_seconds, step.seconds),
            done_before=step.done_before,
        )
        for step in steps
    )
