"""Frozen models beside the one that trains: a teacher, a reference, a judge of what is written."""

from __future__ import annotations

from torch import nn

from ftlib.errors import ModelError
from ftlib.kinds.collate import Collator
from ftlib.kinds.kind import KINDS
from ftlib.kinds.loading import load_unread
from ftlib.training.plan import Plan


def load_companions(plan: Plan, collate: Collator) -> dict[str, nn.Module]:
    """Build a phase's companions, by name, with weights that are unread: in eval mode, and nothing of them trains.

    They are asked the model's own batches, filled up by its `collate`. Raises ModelError for one that cannot be loaded,
    or that finds a row's end by another token than the model: it would answer, and wrongly.
    """
    companions: dict[str, nn.Module] = {}
    for name, source in plan.companions.items():
        companion = load_unread(source, plan.kind)
        if (pad := Collator.of(companion).pad_token_id) != collate.pad_token_id and KINDS[plan.kind].reads_one_place:
            raise ModelError(
                f"phases[{plan.phase.name}].companions.{name}: its pad_token_id is {pad}, the model's "
                f"{collate.pad_token_id}: it would read rows at another place; give both configs the same"
            )
        companions[name] = companion.requires_grad_(False)
    return companions
