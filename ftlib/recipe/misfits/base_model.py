"""Why layers cannot be removed from the base model, or tokens added to it."""

from __future__ import annotations

from collections.abc import Iterator

from ftlib.kinds.kind import KINDS, one_model
from ftlib.recipe.parts import RecipeParts
from ftlib.training.tuning import tunings
from ftlib.wording import these


def prune_misfits(recipe: RecipeParts) -> Iterator[str]:
    """Say why layers cannot be removed in this run, whatever the model."""
    if recipe.prune is None:
        return
    if recipe.prune.dataset not in recipe.training_datasets():
        yield (
            f"prune.dataset: {recipe.prune.dataset!r} is no dataset that a phase trains on; there are "
            f"{these(recipe.training_datasets())}"
        )
    elif recipe.has_training_datasets and recipe.phases:
        first, rows = recipe.kind(recipe.chain[0]), recipe.datasets[recipe.prune.dataset].format.yields
        if not one_model(first, rows):
            yield (
                f"prune.dataset: rows of {recipe.prune.dataset!r} are {rows!r}, but the model that layers are removed "
                f"from is that of the first phase, of {first!r} rows; name a dataset of such rows"
            )
    if "prune" in [phase.name for phase in recipe.phases]:
        yield "phases: 'prune' names the model that layers were removed from; choose another name"
    if recipe.publish.adapter:
        yield "publish.adapter: it would stand on a model without some layers, which nobody else has; remove it"
    if recipe.retrain.start == "champion":
        yield (
            "prune: retrain.start is 'champion', which has lost its layers already and would lose as many again with "
            "every retraining; set it to base"
        )


def added_tokens_misfits(recipe: RecipeParts) -> Iterator[str]:
    """Say why tokens cannot be added in this run, whatever the model, or would never learn what they mean."""
    if not recipe.added_tokens:
        return
    spelt = [one.token for one in recipe.added_tokens]
    if twice := {token for token in spelt if spelt.count(token) > 1}:
        yield f"added_tokens: {these(twice)} is there twice; give each token once"
    if images := [name for name, data in recipe.datasets.items() if KINDS[data.format.yields].modality != "text"]:
        yield f"added_tokens: rows of {these(images)} are images, which have no tokens; leave it out"
    if recipe.publish.adapter:
        yield "publish.adapter: it would stand on a model with more tokens, which nobody else has; remove it"
    if recipe.retrain.start == "champion":
        yield "added_tokens: retrain.start is 'champion', which has these tokens already; set it to base"
    if recipe.phases and not any(phase.tuning.moves_rows for phase in recipe.phases):
        moving = " or ".join(map(repr, tunings(lambda tuning: tuning.moves_rows)))
        yield (
            f"added_tokens: no phase trains what the tokens mean, {these({p.tuning.kind for p in recipe.phases})} "
            f"leaves the embedding as it is; use {moving} in one of them"
        )
