"""What one model cannot learn as several tasks, with a head for each over one body."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ftlib.config import BatchKind
from ftlib.kinds.kind import KINDS
from ftlib.recipe.parts import RecipeParts
from ftlib.training.phase import Phase
from ftlib.training.tuning import tunings
from ftlib.wording import these


def task_misfits(recipe: RecipeParts) -> Iterator[str]:
    """Say what of a recipe's tasks does not fit together: name, got, allowed. Recipes without tasks have none."""
    for phase in recipe.phases:
        yield from _strays(recipe, phase)
        if phase.mixes_rows and phase.optimizer.batch_tokens is not None:
            yield (
                f"phases[{phase.name}].mixing: a batch of {phase.optimizer.batch_tokens} tokens is of one part; set "
                "batches: apart, or give optimizer.batch_size"
            )
    if not recipe.tasks:
        return
    yield from _dataset_misfits(recipe)
    for phase in recipe.phases:
        yield from _phase_misfits(recipe, phase)
    yield from _end_misfits(recipe)


def _of(recipe: RecipeParts, datasets: Iterable[str]) -> set[str]:
    """Return the tasks that datasets name; a name that is no dataset is for others to refuse."""
    return {task for name in datasets if name in recipe.datasets and (task := recipe.datasets[name].task) is not None}


def _strays(recipe: RecipeParts, phase: Phase) -> Iterator[str]:
    if stray := {*phase.tasks} - _of(recipe, phase.parts):
        there_are = these(_of(recipe, phase.parts))
        yield f"phases[{phase.name}].tasks: {these(stray)} is the task of none of its datasets; there are {there_are}"


def _dataset_misfits(recipe: RecipeParts) -> Iterator[str]:
    tasks = {*recipe.tasks}
    if without := [name for name, dataset in recipe.datasets.items() if dataset.task is None]:
        yield f"datasets: {these(without)} has no task, and others have {these(tasks)}; give each a task"
    if idle := tasks - _of(recipe, recipe.training_datasets()):
        yield f"datasets: no phase trains the task {these(idle)}; train it, or leave it out"
    if unmeasured := tasks - _of(recipe, recipe.evaluation_datasets()):
        yield f"evaluations: none measures the task {these(unmeasured)}; give one on a dataset of it"
    kinds: set[BatchKind] = {dataset.format.yields for dataset in recipe.datasets.values()}
    # A head over words may be tied to the body's embedding, and sharing the body would cut that.
    if any(KINDS[kind].answers_untrained for kind in kinds) or len({KINDS[kind].modality for kind in kinds}) > 1:
        yield (
            f"datasets: tasks have heads of their own over one body, got {these(kinds)} batches; a model of words or "
            "vectors has no such head: leave out task, and mix text to text in one phase by mixing.batches: mixed"
        )


def _phase_misfits(recipe: RecipeParts, phase: Phase) -> Iterator[str]:
    """Say what a phase asks for that several heads have no place for."""
    where, tasks = f"phases[{phase.name}]", _of(recipe, phase.parts)
    if not phase.tuning.several_heads:
        moving = these(tunings(lambda tuning: tuning.several_heads))
        yield f"{where}.tuning: {phase.tuning.kind!r} trains one head, got tasks {these(recipe.tasks)}; use {moving}"
    if phase.mixes_rows and len(tasks) > 1:
        yield f"{where}.mixing: a batch is of one task, got {these(tasks)}; set batches: apart"
    for task in sorted(tasks):
        objective = phase.objective_of(task)
        if any(getattr(objective, word, None) for word in ("prepare", "companions", "scores")):
            yield f"{where}: {objective.kind!r} of task {task!r} asks frozen models of one head; train that task alone"
    if phase.self_kl:
        yield f"{where}.self_kl: {phase.self_kl:g}, but what is compared is what one head says; set it to 0"
    if phase.penalty and phase.penalty.keeps:
        yield (
            f"{where}.penalty: {phase.penalty.kind!r} weighs weights by what one head says, got tasks "
            f"{these(recipe.tasks)}; use l2_sp"
        )
    if phase.batch_norm == "updated":
        yield f"{where}.batch_norm: updated, but a row of one task would move what all are normalised by; use frozen"


def _end_misfits(recipe: RecipeParts) -> Iterator[str]:
    """Say what the recipe asks for beside its phases that takes a model of one head."""
    method = recipe.interpolation
    if method.mixes and not method.adds_up:
        yield (
            f"interpolation: several tasks have one body, and {method.kind!r} looks at each task's whole model; use "
            "'wise_ft', 'lines', 'blocks', 'soup', 'task_arithmetic' or 'off'"
        )
    if method.patterns():
        yield "interpolation.modules: a pattern must fit a tensor of every task's model; remove it"
    if method.siblings:
        yield "interpolation.siblings: fine-tunes from elsewhere have one head; use seeds, or leave them out"
    if recipe.prune is not None:
        yield "prune: layers are removed from a model of one head, got several tasks; remove it"
    if recipe.retrain.start == "champion":
        yield "retrain.start: the champion of several tasks has a head for each, and a start has one; use base"
    if recipe.publish.fisher:
        yield "publish.fisher: is measured of what one head says, and the model has one for each task; remove it"
    if recipe.publish.adapter:
        yield "publish.adapter: an adapter has one head, and the model one for each task; remove it"
