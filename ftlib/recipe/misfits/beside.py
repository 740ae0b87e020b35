"""Which frozen models, answers and rows to keep a phase lacks, or names in vain."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ftlib.config import BatchKind
from ftlib.kinds.kind import KINDS, one_model
from ftlib.recipe.parts import RecipeParts
from ftlib.training.phase import ANSWERS, Phase
from ftlib.wording import these


def keeping_misfits(recipe: RecipeParts, phase: Phase, *, first: bool) -> Iterator[str]:
    """Say which rows a penalty cannot measure its Fisher information on, or that it would read one of other weights."""
    keeps = phase.penalty.keeps if phase.penalty else None
    if phase.penalty is None or keeps is None:
        return
    where = f"phases[{phase.name}].penalty"
    kinds: set[BatchKind] = {recipe.datasets[name].format.yields for name in phase.parts if name in recipe.datasets}
    for name in keeps.datasets:
        rows = recipe.datasets[name].format.yields if name in recipe.datasets else None
        if rows is None:
            yield f"{where}.datasets: {name!r} is not a dataset; there are {these(recipe.datasets)}"
        elif one_model(*kinds) and not one_model(*kinds, rows):
            yield (
                f"{where}.datasets: rows of {name!r} are {rows!r}, and the phase's model answers {these(kinds)}; name "
                "datasets of such rows"
            )
        elif not KINDS[rows].has_distribution:
            yield f"{where}.datasets: {without_fisher(name, rows)}; use l2_sp or spd"
    if not keeps.datasets and not first:
        yield (
            f"{where}: the Fisher information that the base model carries is of its own weights, and only the first "
            f"phase starts there; {phase.penalty.kind!r} of a later one needs `datasets`, whose rows it is measured on"
        )
    elif not keeps.datasets and recipe.prune:  # what is left has new numbers: names and shapes would fit all the same
        yield (
            f"{where}: the Fisher information that the base model carries is of all its layers, and prune takes some; "
            f"{phase.penalty.kind!r} needs `datasets`, whose rows it is measured on behind that"
        )


def without_fisher(name: str, kind: BatchKind) -> str:
    """Say that no Fisher information can be measured on rows of that kind."""
    return f"answers to {kind!r} rows, as those of {name!r}, are of no distribution that Fisher information is of"


def companion_misfits(recipe: RecipeParts, phase: Phase, ends: Sequence[str]) -> Iterator[str]:
    """Say which frozen models objective and tuning lack or do not ask, and which name none of the `ends` before."""
    kinds: set[BatchKind] = {recipe.datasets[name].format.yields for name in phase.parts if name in recipe.datasets}
    solving = tuple(name for kind in kinds for name in phase.tuning.asks(kind))
    for field, given, more in (("companions", phase.companions, solving), ("scores", phase.scores, ())):
        where, asked = f"phases[{phase.name}].{field}", (*getattr(phase.objective, field, ()), *more)
        if {*asked} != {*given}:
            yield (
                f"{where}: {(phase.tuning if more else phase.objective).kind!r} asks {these(asked)}, got {these(given)}"
            )
        for name, companion in given.items():
            if companion.phase is not None and companion.phase not in ends:
                yield f"{where}.{name}: {companion.phase!r} is no end of an earlier phase; there are {', '.join(ends)}"
    if phase.answers is not None:
        yield from _answers_misfits(recipe, phase, ends)
    if both := phase.companions.keys() & phase.scores.keys():
        yield f"phases[{phase.name}].scores: {these(both)} is a companion too; give it another name"


def aside_misfits(recipe: RecipeParts) -> Iterator[str]:
    """Say which phases nothing comes of: the next one starts from the base model, and nobody asks where they ended."""
    asked = {companion.phase for phase in recipe.phases for companion in phase.beside.values()}
    for phase, after in zip(recipe.phases, recipe.phases[1:], strict=False):
        if after.start and phase.name not in asked:
            yield (
                f"phases[{after.name}].start: base, and no later phase asks what {phase.name!r} made before it; name "
                f"that as a companion ({{phase: {phase.name}}}), or remove start"
            )


def _answers_misfits(recipe: RecipeParts, phase: Phase, ends: Sequence[str]) -> Iterator[str]:
    """Say why nothing can be written for a phase's rows, or by whom."""
    where = f"phases[{phase.name}].answers"
    assert phase.answers is not None
    if phase.answers.phase is not None and phase.answers.phase not in ends:
        yield f"{where}: {phase.answers.phase!r} is no end of an earlier phase; there are {', '.join(ends)}"
    if ANSWERS in {**phase.companions, **phase.scores}:
        yield f"{where}: {ANSWERS!r} is a companion's name too; give that another"
    for name in phase.parts:
        if name in recipe.datasets and not KINDS[kind := recipe.datasets[name].format.yields].prompts:
            yield f"{where}: rows of {name!r} are {kind!r}, which have no prompts to go on from; leave it out"
