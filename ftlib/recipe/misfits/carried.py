"""What cannot be carried from the model that is trained to another one."""

from __future__ import annotations

from collections.abc import Iterator

from ftlib.kinds.kind import KINDS
from ftlib.recipe.parts import RecipeParts


def carried_misfits(recipe: RecipeParts) -> Iterator[str]:
    """Say why what the phases do to the recipe's model could not be done to `interpolation.onto`."""
    if not recipe.interpolation.carried_to or not recipe.phases:
        return
    where = f"interpolation: {recipe.interpolation.kind!r}"
    last = recipe.phases[-1]
    if len(recipe.phases) > 1:
        yield f"{where} carries what one phase did to the recipe's model, got {len(recipe.phases)} phases; leave one"
    if recipe.prune or recipe.added_tokens:
        changed = "prune" if recipe.prune else "added_tokens"
        yield f"{where} adds weights of one shape, and {changed} changes the model's alone; remove it"
    if last.tuning.quantization:
        yield f"{where} adds to weights as they are, and {last.tuning.kind!r} trains over rounded ones; use lora"
    elif last.tuning.leaves == "adapter" and last.tuning.adapter_scales and not last.tuning.adapter_adds:
        yield (
            f"{where} adds a difference, and the adapter of {last.tuning.kind!r} would bring more than one over the "
            "other model: factors of weights, or modules_to_save as they ended; set keep: merged"
        )
    if recipe.tasks:
        yield f"{where} carries one model's weights, got several tasks; use wise_ft"
    elif recipe.has_training_datasets and not KINDS[recipe.answering_kind].vocabulary:
        yield (
            f"{where} adds to a model that answers such rows already, and rows of kind {recipe.answering_kind!r} need "
            "a head of their own; use wise_ft"
        )
    if recipe.retrain.start == "champion":
        yield f"{where} starts from the base every time, got retrain.start: champion; use base"
