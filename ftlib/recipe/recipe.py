"""The recipe, and the check that its parts fit together."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import model_validator

from ftlib.kinds.kind import KINDS
from ftlib.recipe.misfits.base_model import added_tokens_misfits, prune_misfits
from ftlib.recipe.misfits.beside import without_fisher
from ftlib.recipe.misfits.carried import carried_misfits
from ftlib.recipe.misfits.choice import interpolation_misfits, select_misfits
from ftlib.recipe.misfits.datasets import dataset_misfits
from ftlib.recipe.misfits.drawing import drawing_misfits
from ftlib.recipe.misfits.evaluations import evaluation_misfits
from ftlib.recipe.misfits.forms import adapter_misfits, end_form, form_misfits, quantization_misfits
from ftlib.recipe.misfits.learning import learning_misfits
from ftlib.recipe.misfits.packing import packing_misfits
from ftlib.recipe.misfits.phases import phase_misfits
from ftlib.recipe.misfits.protection import protection_misfits
from ftlib.recipe.misfits.rewards import reward_misfits
from ftlib.recipe.misfits.snapshots import snapshot_misfits
from ftlib.recipe.parts import RecipeParts
from ftlib.urls import secrets_within
from ftlib.wording import these


class Recipe(RecipeParts):
    """A whole run."""

    @model_validator(mode="after")
    def _fits(self) -> Recipe:
        if problems := list(_misfits(self)):
            raise ValueError("\n".join(problems))
        return self


def _misfits(recipe: Recipe) -> Iterator[str]:
    """Say which parts do not fit together: name, got, allowed."""
    yield from _secrets(recipe.model_dump(mode="json"))
    yield from protection_misfits(recipe)
    yield from phase_misfits(recipe)
    yield from prune_misfits(recipe)
    yield from added_tokens_misfits(recipe)
    yield from dataset_misfits(recipe)
    yield from evaluation_misfits(recipe)
    yield from reward_misfits(recipe)
    yield from select_misfits(recipe)
    yield from interpolation_misfits(recipe)
    yield from carried_misfits(recipe)
    yield from snapshot_misfits(recipe)
    yield from learning_misfits(recipe)
    if recipe.compute.pack_tokens is not None and recipe.has_training_datasets:
        yield from packing_misfits(recipe)
    if recipe.publish.adapter and recipe.phases and end_form(recipe, "dense") == "dense":
        yield from adapter_misfits(recipe)
    yield from form_misfits(recipe, "dense")
    yield from drawing_misfits(recipe)
    for name in recipe.publish.fisher.datasets if recipe.publish.fisher else ():
        if name not in recipe.training_datasets():
            yield (
                f"publish.fisher.datasets: no phase trains on {name!r}, so the version knows nothing of its rows to "
                f"keep; there are {these(recipe.training_datasets())}"
            )
        elif name in recipe.datasets and not KINDS[rows := recipe.datasets[name].format.yields].has_distribution:
            yield f"publish.fisher.datasets: {without_fisher(name, rows)}; remove it"
    yield from quantization_misfits(recipe, "dense")


def _secrets(value: object) -> Iterator[str]:
    """Say where a URL gives a secret away: a recipe is copied into records, run pages and every version's lineage."""
    for path, secret in secrets_within(value):
        yield f"{path}: {secret} would be published with the recipe; leave it to the environment"
