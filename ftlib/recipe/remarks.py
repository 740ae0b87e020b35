"""What is known of a recipe's choices that fit together, and may still not be what one wants."""

from __future__ import annotations

from collections.abc import Iterator

from ftlib.kinds.kind import KINDS
from ftlib.recipe.parts import RecipeParts


def interpolation_remarks(recipe: RecipeParts) -> Iterator[str]:
    """Yield what was measured elsewhere of the interpolation on models of this kind, where that speaks against it."""
    if not recipe.has_training_datasets or not recipe.phases:
        return
    kind = KINDS[recipe.answering_kind]
    if kind.language and not kind.decodes and (said := recipe.interpolation.on_language_models):
        yield f"interpolation: {said}"
