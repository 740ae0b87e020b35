"""Snapshots that no phase keeps, or that nothing can start from."""

from __future__ import annotations

from collections.abc import Iterator

from ftlib.recipe.parts import RecipeParts
from ftlib.wording import these


def snapshot_misfits(recipe: RecipeParts) -> Iterator[str]:
    """Say which phases cannot keep snapshots, and why the interpolation cannot start from the one it names."""
    for phase in recipe.phases:
        where = f"phases[{phase.name}].snapshots"
        if phase.snapshots and not phase.tuning.takes_steps:
            yield f"{where}: {phase.tuning.kind!r} is solved for, without steps; remove it"
        if phase.snapshots and recipe.tasks:
            yield f"{where}: are of a model of one head, got several tasks; remove it"
    start = recipe.interpolation.start
    if start is None or not recipe.phases:
        return
    last, method = recipe.phases[-1], recipe.interpolation
    kept = last.snapshots.names if last.snapshots else ()
    if start not in kept:
        keeps = f"keeps {these(kept)}" if kept else "keeps none: give it snapshots: {steps: [...]} or {epochs: [...]}"
        yield f"interpolation.start: {start!r} is no snapshot of phase {last.name!r}, which {keeps}"
    if not method.mixes or method.carried_to:
        yield f"interpolation.start: {method.kind!r} does not start from a snapshot; remove it, or use wise_ft"
    if recipe.publish.adapter:
        yield "publish.adapter: stands on where its phase started, and interpolation.start is a snapshot; remove it"
