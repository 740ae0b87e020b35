"""Which evaluations and metrics do not fit the recipe's datasets and kind."""

from __future__ import annotations

from collections.abc import Iterator

from ftlib.config import BatchKind
from ftlib.evaluation.evaluation import Evaluation
from ftlib.kinds.kind import KINDS, one_model
from ftlib.recipe.parts import RecipeParts
from ftlib.wording import counted, these


def evaluation_misfits(recipe: RecipeParts) -> Iterator[str]:
    """Say which evaluations and metrics do not fit the recipe's datasets and kind."""
    if not recipe.evaluations:
        yield "evaluations: empty; give at least one, or nothing can be selected"
    for name, evaluation in recipe.evaluations.items():
        where = f"evaluations.{name}"
        if evaluation.dataset not in recipe.datasets:
            yield f"{where}.dataset: {evaluation.dataset!r} is not a dataset; there are {these(recipe.datasets)}"
            continue
        if not evaluation.metrics:
            yield f"{where}.metrics: empty; give at least one"
        dataset = recipe.datasets[evaluation.dataset]
        yield from _reading_misfits(recipe, where, evaluation)
        names = [metric.name for metric in evaluation.metrics]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            yield f"{where}.metrics: {these(twice)} is there twice; give each metric once"
        if dataset.split.by != "given" and (dataset.split.validation == 0 or dataset.split.test == 0):
            yield (
                f"{where}: selection reads the validation split and the report the test split, but dataset "
                f"{evaluation.dataset!r} has validation: {dataset.split.validation:g}, test: {dataset.split.test:g}"
            )


def _reading_misfits(recipe: RecipeParts, where: str, evaluation: Evaluation) -> Iterator[str]:
    """Say what cannot be computed from what the evaluation's rows make the recipe's model say."""
    dataset = recipe.datasets[evaluation.dataset]
    yields: BatchKind = dataset.format.yields
    kinds = _taught(recipe.of_task(dataset.task))
    if one_model(*kinds) and not one_model(*kinds, yields):
        yield f"{where}: a model trained on {these(kinds)} does not answer {yields!r} batches; use another dataset"
    for metric in evaluation.metrics:
        if KINDS[yields].taught_as not in metric.reads:
            yield (
                f"{where}: {metric.kind!r} needs {' or '.join(map(repr, sorted(metric.reads)))} batches, but dataset "
                f"{evaluation.dataset!r} has format {dataset.format.kind!r}, which yields {yields!r}"
            )
        elif metric.reads_own and dataset.format.asks_alone:
            yield (
                f"{where}: {metric.name!r} reads the rows' own answers, but those of dataset {evaluation.dataset!r} "
                "are prompts alone; give reward, or rows with answers"
            )
        elif metric.reads_writing and not evaluation.max_new_tokens:
            yield f"{where}: {metric.kind!r} reads what the model writes; give max_new_tokens, for example 64"
        elif metric.reads_reference and evaluation.reference is None:
            yield (
                f"{where}: {metric.kind!r} reads rewards, which are measured against a frozen model; give "
                "`reference: {phase: base}`, or what else the phase's `scores` name"
            )
        elif metric.answer_threshold and not dataset.format.may_be_unanswerable:
            yield (
                f"{where}: {metric.kind!r} has a null_score_diff_threshold, but every question of dataset "
                f"{evaluation.dataset!r} has an answer; give its format unanswerable: keep, or remove the threshold"
            )
    yield from _reference_misfits(recipe, where, evaluation)
    yield from _writing_misfits(where, evaluation, yields)


def _writing_misfits(where: str, evaluation: Evaluation, yields: BatchKind) -> Iterator[str]:
    """Say what of writing and drawing answers does not go together, or with such rows."""
    drawn = evaluation.samples.count if evaluation.samples else 0
    for metric in evaluation.metrics:
        if metric.least_samples > drawn:
            yield (
                f"{where}: {metric.name!r} reads at least {counted(metric.least_samples, 'drawn answer')} to each "
                f"prompt, got {drawn or 'none'}; give samples: {{count: {max(10, 2 * metric.least_samples)}}}"
            )
    if evaluation.max_new_tokens and not KINDS[yields].prompts:
        yield f"{where}.max_new_tokens: {yields!r} batches have no prompts to go on from; remove it"
    if evaluation.samples and not evaluation.max_new_tokens:
        yield f"{where}.samples: none are drawn without max_new_tokens; give it, for example 64"
    if evaluation.samples and KINDS[yields].decodes:
        yield f"{where}.samples: answers are drawn from causal models, and {yields!r} is answered by an encoder-decoder"
    if evaluation.num_beams > 1 and not evaluation.max_new_tokens:
        yield f"{where}.num_beams: {evaluation.num_beams} beams write nothing without max_new_tokens; give it"


def _taught(recipe: RecipeParts) -> set[BatchKind]:
    """Return the kinds of batch that the published head is trained on; those of all phases where one has no dataset."""
    names = recipe.answering_datasets() if recipe.has_training_datasets else recipe.training_datasets()
    return {recipe.datasets[name].format.yields for name in names if name in recipe.datasets}


def _reference_misfits(recipe: RecipeParts, where: str, evaluation: Evaluation) -> Iterator[str]:
    """Say whose rewards nobody reads, or which reference no phase ends with."""
    if evaluation.reference is None:
        return
    if not any(metric.reads_reference for metric in evaluation.metrics):
        remedy = "reward_margin for pairs, thumb_auroc for thumbs"
        yield f"{where}.reference: none of its metrics reads it; remove it, or give {remedy}"
    ends = ("base", *(["prune"] if recipe.prune else []), *(phase.name for phase in recipe.chain))
    if evaluation.reference.phase is not None and evaluation.reference.phase not in ends:
        yield f"{where}.reference: {evaluation.reference.phase!r} is no phase's end; there are {', '.join(ends)}"
