"""What `reglage check` remarks on a recipe that fits together, and that may still be a slip."""

import difflib
from collections.abc import Iterator

from ftlib.config import user_path
from ftlib.recipe.recipe import Recipe


def notes(recipe: Recipe) -> Iterator[str]:
    """Yield a line for everything that a run would stop at after it has read rows or asked for the model."""
    path = recipe.model.path
    if recipe.model.revision is None and not path.startswith("package:") and not user_path(path).is_dir():
        yield (
            f"model.path: {path!r} is no folder here; a model of the hub needs revision, the commit's hash of 40 hex "
            "digits"
        )
    for name, dataset in recipe.datasets.items():
        for column in dataset.format.columns if dataset.columns else ():
            if column not in dataset.columns:
                near = difflib.get_close_matches(column, dataset.columns, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                yield (
                    f"datasets.{name}.format: reads {column!r}, which its columns do not declare{hint}; declared: "
                    f"{', '.join(dataset.columns)}"
                )
