"""A phase's model: built as it is before step 0, and spread over the ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn

from ftlib.errors import RecipeError
from ftlib.kinds.loading import head_modules, load_unread, merged
from ftlib.kinds.task_model import module_of
from ftlib.models.checkpoint import Checkpoint
from ftlib.models.unread import check_read_nothing, empty_unread, read_all, unread_names
from ftlib.training.checkpoints.shards import read_into
from ftlib.training.compute import Compute
from ftlib.training.group import Group, shards_of
from ftlib.training.loops.frozen import freeze
from ftlib.training.loops.modes import moving_statistics
from ftlib.training.plan import Plan


def place(model: nn.Module, compute: Compute, precision: Literal["fp32", "bf16"], group: Group) -> nn.Module:
    """Return a model as it is spread over the group, with this rank's part of what it has not read yet.

    Raises ModelError, on every rank, for values that are no numbers.
    """
    spans = empty_unread(model)
    placed = group.place(model, compute, precision)
    offloaded = compute.cpu_offload and shards_of(placed) is not None
    return read_into(placed, spans, group, torch.device("cpu") if offloaded else group.device)


def fresh_of(start: Checkpoint, head: Sequence[str]) -> list[str]:
    """Return the modules of the head that are still random; of several tasks, those of the heads that are."""
    if not start.tasks:
        return [*head] if start.fresh_head else []
    fresh = [module_of(task.name) for task in start.tasks if start.of_task(task.name).fresh_head]
    return [name for name in head if name.rpartition(".")[0] in fresh]


def build_model(plan: Plan, dropout: float | None) -> tuple[nn.Module, list[str]]:
    """Return the phase's model as it is before step 0, and its head's modules; the same bits every time.

    Parameters that its folder has are `Unread`; what it does not have, as an adapter that begins, is on the CPU. An
    adapter that is to be merged into its base is, whole. Raises RecipeError for a tuning, or something to be frozen or
    updated, that this model does not have.
    """
    torch.manual_seed(plan.seed)
    model = load_unread(plan.start, plan.kind, dropout)
    if plan.phase.tuning.leaves == "dense" and plan.start.form == "adapter":
        model = merged(read_all(model))
    head, phase = head_modules(model), plan.phase
    tuned = phase.tuning.prepare(model, plan.kind, head)
    if unread_names(tuned):
        check_read_nothing(tuned, f"tuning {phase.tuning.kind}")
    freeze(tuned, phase.frozen, f"phases[{phase.name}]")
    if phase.batch_norm == "updated" and not moving_statistics(tuned):
        raise RecipeError(
            f"phases[{phase.name}].batch_norm: updated, but {type(model).__name__} has no layer of BatchNorm that "
            f"{phase.tuning.kind} trains; leave it at frozen"
        )
    return tuned, head
