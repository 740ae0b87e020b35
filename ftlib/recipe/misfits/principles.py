"""What stands in the way of pairs that principles make of a phase's prompts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ftlib.kinds.kind import KINDS
from ftlib.recipe.parts import RecipeParts
from ftlib.training.phase import CRITIC, Phase


def principle_misfits(recipe: RecipeParts, phase: Phase, ends: Sequence[str]) -> Iterator[str]:
    """Say which rows have no prompts to draft answers to, who cannot criticise, and what cannot measure."""
    if phase.principles is None:
        return
    where = f"phases[{phase.name}].principles"
    critic = phase.principles.critic
    if critic and critic.phase is not None and critic.phase not in ends:
        yield f"{where}.critic: {critic.phase!r} is no end of an earlier phase; there are {', '.join(ends)}"
    if CRITIC in {**phase.companions, **phase.scores}:
        yield f"{where}: {CRITIC!r} is a companion's name too; give that another"
    if phase.answers is not None:
        yield f"{where}: pairs are made of the model's own drafts, and `answers` would write others; remove one"
    if recipe.tasks:
        yield f"{where}: a body of several tasks does not write; train the phase in a recipe of its own"
    yield from _prompt_misfits(recipe, phase, where)
    for number, checker in phase.principles.checkers.items():
        if checker.companions:
            yield (
                f"{where}.checkers.{number}: {checker.kind!r} asks a model, and a checker is a rule; use regex, "
                "length, json_schema, exact_match or python"
            )


def _prompt_misfits(recipe: RecipeParts, phase: Phase, where: str) -> Iterator[str]:
    """Say which of a phase's datasets have no prompts that a model goes on from."""
    for name in (one for one in phase.parts if one in recipe.datasets):
        format = recipe.datasets[name].format
        kind = KINDS[format.yields]
        if not kind.prompts or kind.decodes:
            needs = "a causal model drafts answers to prompts: prompt_completion or chat"
            yield f"{where}: rows of {name!r} are {kind.name!r}, and {needs}"
        if getattr(format, "tools", None):
            yield f"{where}: rows of {name!r} offer tools, and drafts call none; leave format.tools out"
