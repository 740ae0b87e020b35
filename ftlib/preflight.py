"""What must be true of the registry and of the prepared datasets together, before anything trains."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ftlib.artifacts import PreparedDataset
from ftlib.config import LABELED, Split
from ftlib.counted import counted
from ftlib.errors import DataError, StorageError
from ftlib.iob2 import completed
from ftlib.model_registry import probe
from ftlib.model_registry.signing import Signer
from ftlib.prepared import longest_prompt, split_file
from ftlib.recipe import REPORT, SELECTION, Recipe

_NAMED = 5
"""Labels that a message names."""


def check_labels(recipe: Recipe, prepared: Mapping[str, PreparedDataset]) -> tuple[str, ...]:
    """Return the labels that training sees, sorted; empty for a recipe without labels.

    Raises DataError if an evaluation has nothing to measure on, if there is one class only, or if an evaluation holds
    labels that training never sees: no model of this run could get such a row right.
    """
    for name, evaluation in recipe.evaluations.items():
        uses: dict[Split, str] = {SELECTION: "selection", REPORT: "the report"}
        for split, use in uses.items():
            if prepared[evaluation.dataset].splits[split].rows == 0:
                raise DataError(
                    f"evaluations.{name}: dataset {evaluation.dataset!r} has no {split} rows, but {use} is measured on "
                    "them; give it more rows or a larger share in its split"
                )
    training = recipe.training_datasets()
    if any(prepared[name].kind not in LABELED for name in training):
        return ()
    seen = tuple(sorted({label for name in training for label in prepared[name].splits["train"].labels}))
    if any(prepared[name].kind == "tagged" for name in training):
        seen = completed(seen)
    if len(seen) < 2 and recipe.phases[0].objective.needs != "multi_labeled":
        found = f"{counted(len(seen), 'label')} ({', '.join(seen)})" if seen else "no label"
        raise DataError(f"training rows have {found}; a classifier needs at least two")
    for name, evaluation in recipe.evaluations.items():
        splits = prepared[evaluation.dataset].splits
        unseen = sorted({label for split in (SELECTION, REPORT) for label in splits[split].labels} - set(seen))
        if unseen:
            raise DataError(
                f"evaluations.{name}: labels that training never sees: {_some(unseen)}; training has {_some(seen)}: "
                "map or drop these rows, or train on some of them"
            )
    return seen


def check_room(name: str, max_new_tokens: int, prompts: Path, model: Path) -> None:
    """Raise DataError if a model has no positions left for what it is to write after the longest of a split's prompts.

    `name` is the evaluation's; `prompts` is the split's file, `model` the folder with the model's config.
    """
    if not max_new_tokens:
        return
    from ftlib.training.model_limits import limits_of

    positions, longest = limits_of(model).positions, longest_prompt(prompts)
    if positions is not None and longest + max_new_tokens > positions:
        raise DataError(
            f"evaluations.{name}: after a prompt of {longest} tokens, max_new_tokens: {max_new_tokens} goes beyond the "
            f"{positions} that the model reads; lower it, or the format's max_tokens"
        )


def check_writing(recipe: Recipe, prepared: Mapping[str, PreparedDataset], model: Path) -> None:
    """Raise DataError if an evaluation has the model write more than it can; before anything is trained."""
    for name, evaluation in recipe.evaluations.items():
        for split in (SELECTION, REPORT):
            file = split_file(prepared[evaluation.dataset].path, split)
            check_room(name, evaluation.max_new_tokens, file, model)


def _some(labels: tuple[str, ...] | list[str]) -> str:
    more = f" and {len(labels) - _NAMED} more" if len(labels) > _NAMED else ""
    return ", ".join(labels[:_NAMED]) + more


def check_registry(recipe: Recipe) -> None:
    """Try the registry, and the key, before anything is trained for them.

    Raises StorageError if nothing can be published there, RecipeError for a key that cannot sign.
    """
    if recipe.publish.sign_with:
        Signer(Path(recipe.publish.sign_with))
    store = recipe.publish.to.store()
    try:
        probe(store)
    except StorageError as error:
        raise StorageError(f"publish.to: nothing can be published to the registry {store.uri}: {error}") from error
