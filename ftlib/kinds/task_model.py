"""Several stock models of one architecture over one body: each task is asked by its name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

from torch import nn

from ftlib.errors import ModelError

_PREFIX = "task:"
"""Before a task's name: a module may be called `type` or `train` no more than its class's own attributes."""


class TaskModel(nn.Module):
    """The stock models of several tasks, whose bodies are one.

    A parameter of the body has the name that it has in the first task's model, by name, that has it.
    """

    def __init__(self, models: Mapping[str, nn.Module]) -> None:
        """Take models with equal bodies, by task, and give all the first one's. Raises ModelError if they differ."""
        super().__init__()
        self._names = sorted(models)
        shared: dict[str, nn.Module] = {}
        for name in self._names:
            _share_body(name, cast(Any, models[name]), shared)
            self.add_module(_PREFIX + name, models[name])

    @property
    def models(self) -> Iterator[tuple[str, nn.Module]]:
        """Yield each task's name and stock model."""
        return ((name, self.get_submodule(_PREFIX + name)) for name in self._names)

    @property
    def config(self) -> Any:
        """Return the config of the first task's model: what it says of the body is true of all."""
        return self.get_base_model().config

    def get_base_model(self) -> Any:
        """Return the first task's model: called as all are."""
        return self.get_submodule(_PREFIX + self._names[0])

    def forward(self, task: str, **inputs: Any) -> Any:
        """Return what the task's model says."""
        return self.get_submodule(_PREFIX + task)(**inputs)


def module_of(task: str) -> str:
    """Return the name of a task's stock model in a `TaskModel`."""
    return _PREFIX + task


def _share_body(task: str, model: Any, shared: dict[str, nn.Module]) -> None:
    """Put the modules of the body that are there already into a task's model, and remember those that were not.

    Bodies may differ in what only some heads read: BERT's token classifier has no pooler.
    """
    body: nn.Module = getattr(model, model.base_model_prefix)
    if own := [name for name, _ in body.named_parameters(recurse=False)]:
        raise ModelError(
            f"several tasks over one {type(model).__name__}: its body keeps {own[0]} outside of its modules, which is "
            "not shared yet; train one task, or choose another model"
        )
    for name, module in [*body.named_children()]:
        mine, first = _shapes(module), shared.setdefault(name, module)
        if mine != _shapes(first):
            raise ModelError(
                f"task {task!r}: {name} of {type(model).__name__}'s body is not as the other tasks have it; give all "
                "tasks a base model whose bodies are equal"
            )
        setattr(body, name, first)


def _shapes(module: nn.Module) -> list[tuple[str, tuple[int, ...]]]:
    return [(name, tuple(tensor.shape)) for name, tensor in module.named_parameters()]
