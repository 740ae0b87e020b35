"""What an objective cannot be asked of the batches that a phase makes, or who cannot watch what it says of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from ftlib.data.dataset import Dataset
from ftlib.kinds.kind import KINDS
from ftlib.recipe.misfits.preferences import reference_misfits
from ftlib.training.objectives import Objective
from ftlib.training.objectives.policy import PolicyObjective
from ftlib.training.phase import Phase


def batch_misfits(where: str, phase: Phase, datasets: Mapping[str, Dataset]) -> Iterator[str]:
    """Say what of a phase, all of whose `datasets` are there, its batches or its validation loss do not bear."""
    objectives = objectives_of(phase, datasets)
    yield from _asked_first_misfits(where, phase, objectives)
    yield from _watching_misfits(where, phase, objectives)
    yield from reference_misfits(where, phase, objectives)
    yield from _prompt_misfits(where, phase, datasets)
    budget = phase.optimizer.batch_tokens
    for name in phase.parts if budget is not None else ():
        kind = KINDS[datasets[name].format.yields]
        if kind.decodes:  # source and target are padded each to its own longest, and a row's size is their sum
            yield (
                f"{where}.optimizer.batch_tokens: {budget} tokens are counted of rows of one sequence, but those of "
                f"{name!r} ({kind.name!r}) are two, which are padded apart; give batch_size"
            )


def objectives_of(phase: Phase, datasets: Mapping[str, Dataset]) -> tuple[Objective, ...]:
    """Return what is minimised on the rows of some task of a phase, each kind of it once."""
    tasks = {datasets[name].task for name in phase.parts}
    return tuple({one.kind: one for one in map(phase.objective_of, sorted(tasks, key=str))}.values())


def _prompt_misfits(where: str, phase: Phase, datasets: Mapping[str, Dataset]) -> Iterator[str]:
    """Say which rows are prompts alone, where answers are learnt that nobody draws or writes."""
    if phase.answers or phase.principles:
        return
    for name in phase.parts:
        objective, format = phase.objective_of(datasets[name].task), datasets[name].format
        if format.asks_alone and not getattr(objective, "writes", False):
            yield (
                f"{where}: {objective.kind!r} learns answers, but the rows of {name!r} are prompts alone; give its "
                "format the answers, or use grpo or rloo, which learn from the model's own"
            )
        elif format.asks_alone and isinstance(objective, PolicyObjective) and objective.reward.reads_own:
            yield (
                f"{where}.objective.reward: exact_match compares with a row's own answer, but the rows of {name!r} are "
                "prompts alone; use another reward, or give its format the answers"
            )


def _asked_first_misfits(where: str, phase: Phase, objectives: Iterable[Objective]) -> Iterator[str]:
    """Say what an objective finds otherwise when it asks a whole batch first, as it prepares or remembers."""
    for objective in objectives:
        prepares = getattr(objective, "prepare", None)
        if phase.mixes_rows and (prepares or getattr(objective, "remember", None)):
            # Rows of a part that is short of them come twice in a batch, and have one place in what was asked.
            yield (
                f"{where}.mixing: {objective.kind!r} asks about a whole batch first, each row once, got batches: mixed "
                "of parts whose rows may repeat in one; set batches: apart"
            )
        if phase.augmentation and prepares:
            yield (
                f"{where}.augmentation: {phase.augmentation.kind!r} changes the rows that {objective.kind!r} learns, "
                "but not those that it asks about first and holds them against; remove it, or use classification"
            )


def _watching_misfits(where: str, phase: Phase, objectives: Iterable[Objective]) -> Iterator[str]:
    """Say who watches a validation loss that changes its meaning with each new teacher."""
    for objective in objectives:
        renewal = getattr(objective, "renewal", None)
        if not renewal:
            continue
        why = f"{objective.kind!r} measures it against a teacher that is renewed every {renewal} steps"
        if phase.early_stopping:
            yield f"{where}.early_stopping: watches the validation loss, but {why}; remove it"
        if phase.optimizer.schedule == "plateau":
            yield f"{where}.optimizer.schedule: 'plateau' watches the validation loss, but {why}; use linear or cosine"
