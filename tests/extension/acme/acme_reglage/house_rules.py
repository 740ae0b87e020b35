"""What recipes of this team must say."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a module with a class for a union must not import recipes, which are not there yet when it joins
    from ftlib.recipe.recipe import Recipe


def licensed(recipe: Recipe) -> Iterator[str]:
    """Every version names a licence."""
    if recipe.publish.license is None:
        yield "publish.license: unset; give one, for example apache-2.0"
