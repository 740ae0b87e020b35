"""What a learning curve cannot be drawn of: trainings whose rows are not what they learn from."""

from __future__ import annotations

from collections.abc import Iterator

from ftlib.recipe.misfits.batches import objectives_of
from ftlib.recipe.parts import RecipeParts
from ftlib.training.phase import Phase

_WHERE = "learning_curve"


def learning_misfits(recipe: RecipeParts) -> Iterator[str]:
    """Say which phases a learning curve cannot train again on a share of their rows."""
    if recipe.learning_curve is None or not recipe.phases or not recipe.has_training_datasets:
        return
    if recipe.tasks:
        yield f"{_WHERE}: a share is of the rows of one task, and the recipe has {len(recipe.tasks)}; remove it"
        return
    for phase in recipe.learning_phases:
        if (why := _why_not(recipe, phase)) is not None:
            yield f"{_WHERE}: phase {phase.name!r} {why}; remove it"


def _why_not(recipe: RecipeParts, phase: Phase) -> str | None:
    if phase.principles:
        return "learns from revisions of its own drafts, so fewer rows are not fewer of what it learns from"
    writing = [one.kind for one in objectives_of(phase, recipe.datasets) if getattr(one, "writes", False)]
    if writing:
        return f"learns by {writing[0]!r} from answers that it draws, so fewer rows are not fewer of those"
    return None
