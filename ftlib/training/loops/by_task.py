"""The objectives of several tasks as one: each batch is of one task, whose head is asked and whose loss is weighed.

The loss of a step is weight x mean loss over the rows of its task. Over a phase that adds up to a sum over tasks, each
weighed by its weight times its share of the steps; with equal shares it is the sum of weight x mean loss that a model
of one batch for all tasks minimises, divided by the number of tasks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from ftlib.kinds.batch import Batch, LossSum
from ftlib.kinds.split import PreparedSplit
from ftlib.kinds.task_model import TaskModel
from ftlib.training.phase import Phase


def minimised(phase: Phase, splits: Iterable[PreparedSplit]) -> Any:
    """Return what a phase minimises on rows of these splits: its objective or, of several tasks, each its own."""
    tasks = sorted({split.task for split in splits if split.task is not None})
    return ByTask(phase, tasks) if tasks else phase.objective


class ByTask:
    """An objective that asks for each batch the one of its task."""

    def __init__(self, phase: Phase, tasks: Iterable[str]) -> None:
        """Take each task's objective and weight from the phase."""
        self.kind = "by task"
        self._tasks = {task: (phase.objective_of(task), phase.loss_weight(task)) for task in tasks}

    def loss(self, model: Any, batch: Batch) -> LossSum:
        """Return the weighed sum of the batch's task, and what the sum is over."""
        assert batch.task is not None
        objective: Any  # none of those that are told more than the batch: the recipe refuses them
        objective, weight = self._tasks[batch.task]
        loss = objective.loss(_OneTask(model, batch.task), batch)
        return replace(loss, total=weight * loss.total)


class _OneTask:
    """A model of several tasks as an objective asks it for one: through all that wraps it, with that task's config."""

    def __init__(self, model: Any, task: str) -> None:
        self._model, self._task = model, task

    def __call__(self, **inputs: Any) -> Any:
        return self._model(task=self._task, **inputs)

    @property
    def config(self) -> Any:
        """The config of the task's stock model: its labels are no other task's."""
        models = next(module for module in self._model.modules() if isinstance(module, TaskModel))
        return dict(models.models)[self._task].config
