"""What must be true of the registry and of the prepared datasets together, before anything trains."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ftlib.artifacts import PreparedDataset
from ftlib.config import LABELED, Split
from ftlib.errors import DataError, StorageError
from ftlib.iob2 import completed
from ftlib.model_registry import probe
from ftlib.model_registry.signing import Signer
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
        raise DataError(f"training rows have {len(seen)} label ({', '.join(seen)}); a classifier needs at least two")
    for name, evaluation in recipe.evaluations.items():
        splits = prepared[evaluation.dataset].splits
        unseen = sorted({label for split in (SELECTION, REPORT) for label in splits[split].labels} - set(seen))
        if unseen:
            raise DataError(
                f"evaluations.{name}: labels that training never sees: {_some(unseen)}; training has {_some(seen)}: "
                "map or drop these rows, or train on some of them"
            )
    return seen


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
