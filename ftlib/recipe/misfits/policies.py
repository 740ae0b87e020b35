"""What a phase cannot do whose policy learns from its own answers."""

from __future__ import annotations

from collections.abc import Iterator

from ftlib.kinds.kind import KINDS
from ftlib.recipe.misfits.batches import objectives_of
from ftlib.recipe.parts import RecipeParts
from ftlib.training.phase import Phase
from ftlib.wording import these


def policy_misfits(recipe: RecipeParts, phase: Phase) -> Iterator[str]:
    """Say which rows have no prompts for a policy, and what of the phase acts on rows that it does not learn from."""
    where = f"phases[{phase.name}]"
    if any(name not in recipe.datasets for name in phase.parts):
        return
    asked = objectives_of(phase, recipe.datasets)
    writing = [objective.kind for objective in asked if getattr(objective, "writes", False)]
    if not writing:
        return
    kind = writing[0]
    if any(recipe.datasets[name].task for name in phase.parts):
        yield f"{where}.tasks: {kind!r} learns one task in a phase; give each a phase of its own"
    for name in phase.parts:
        if KINDS[rows := recipe.datasets[name].format.yields].decodes:
            yield (
                f"{where}: {kind!r} samples from a decoder alone, but rows of {name!r} are {rows!r}; use the format "
                "prompt_completion or chat, with a causal model"
            )
    yield from _way_misfits(recipe, phase, kind)


def _way_misfits(recipe: RecipeParts, phase: Phase, kind: str) -> Iterator[str]:
    """Say what of how a phase learns does not fit answers that are drawn on the way."""
    where = f"phases[{phase.name}]"
    if not phase.tuning.packs:
        yield (
            f"{where}.tuning: {kind!r} draws no samples under a soft prompt, got {phase.tuning.kind!r}; use full, lora "
            "or ia3"
        )
    if phase.optimizer.batch_tokens is not None:
        yield (
            f"{where}.optimizer.batch_tokens: how long answers are is not known before they are drawn, got "
            f"{phase.optimizer.batch_tokens}; give batch_size, in prompts"
        )
    if phase.self_kl:
        yield f"{where}.self_kl: compares answers to the rows, and {kind!r} learns from others; give beta"
    if phase.answers:
        yield f"{where}.answers: {kind!r} learns from answers that it draws itself; remove it"
    if recipe.compute.compile:
        yield f"compute.compile: {kind!r} of phase {phase.name!r} samples with a cache that grows; set it to false"
    yield from _judge_misfits(recipe, phase)


def _judge_misfits(recipe: RecipeParts, phase: Phase) -> Iterator[str]:
    """Say which companion that is to give a reward is no reward model, and which policy would start from one."""
    where = f"phases[{phase.name}]"
    scores = getattr(phase.objective, "companions_answer", None)
    earlier = {one.name: one for one in recipe.phases[: recipe.phases.index(phase)]}
    made = [name for name, one in earlier.items() if one.objective.needs == scores]
    for name, companion in phase.companions.items():
        if companion.phase == "base" or (companion.phase in earlier and companion.phase not in made):
            yield (
                f"{where}.companions.{name}: gives a reward, and {companion.phase!r} is no reward model; give an "
                f"earlier phase with objective reward, there are {these(made)}, or `model`"
            )
    if not phase.start and [*earlier][-1:] == made[-1:] != []:
        yield (
            f"{where}: would start where {made[-1]!r} ended, which scores texts and writes none; give it start: base"
        )
