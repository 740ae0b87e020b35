"""What `reglage check` remarks on a recipe that fits together, and that may still be a slip."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from ftlib.config import user_path
from ftlib.errors import ModelError, RecipeError
from ftlib.models.folder import is_hub_name, is_pinned, locate, package_folder
from ftlib.models.reference import ModelRef
from ftlib.recipe.file import load_recipe
from ftlib.recipe.preflight import check_modality, check_principles, check_rewards
from ftlib.recipe.recipe import Recipe
from ftlib.recipe.remarks import interpolation_remarks
from ftlib.storage.node_cache import is_output
from ftlib.wording import meant


def checked_recipe(path: Path, overrides: Sequence[str] = ()) -> tuple[Recipe, list[str]]:
    """Return a recipe that fits together, also with its model where that is here, and what is remarked on it.

    Raises RecipeError with a line for each problem.
    """
    recipe = load_recipe(path, overrides)
    if recipe.search.space:
        from flows.searching.recipes import Searched

        Searched.load(path, overrides, ()).check_space()
    check_principles(recipe)
    check_rewards(recipe)
    if (folder := model_folder(recipe)) is not None:
        check_modality(recipe, folder)
    _check_onto(recipe)
    return recipe, list(notes(recipe))


def _check_onto(recipe: Recipe) -> None:
    """Raise RecipeError for a model that training is to be carried to, and that is not here or reads other rows.

    One of the hub at its revision, or of a bucket, is for a run to fetch.
    """
    onto = recipe.interpolation.carried_to
    if onto is None or onto.model.revision is not None or is_output(onto.model.path):
        return
    where = "interpolation.onto.path"
    try:
        check_modality(recipe, locate(onto.model), f"{where}: {onto.model.path}")
    except ModelError as error:
        raise RecipeError(f"{where}: {error}") from error


def model_folder(recipe: Recipe) -> Path | None:
    """Return the folder of the base model; None where a run would ask the hub for it, or would not find it."""
    return _folder(recipe.model)


def _folder(model: ModelRef) -> Path | None:
    folder = user_path(model.path)
    if folder.is_dir():
        return folder
    try:
        return package_folder(model.path) if model.path.startswith("package:") else None
    except ModelError:
        return None


def _absent(where: str, model: ModelRef) -> Iterator[str]:
    """Yield a line for a model that no run would find here, nor may look for elsewhere."""
    path = model.path
    elsewhere = path.startswith("package:") or is_output(path) or (is_hub_name(path) and is_pinned(model.revision))
    if elsewhere or _folder(model) is not None:
        return
    remedy = (
        "a model of the hub needs revision, the commit's hash of 40 hex digits"
        if is_hub_name(path)
        else "give a folder, package:<module>/<folder> or a hub name"
    )
    yield f"{where}: {path!r} is no folder here; {remedy}"


def notes(recipe: Recipe) -> Iterator[str]:
    """Yield a line for what a run would stop at after it has read rows or asked for the model, and other remarks."""
    yield from interpolation_remarks(recipe)
    yield from _absent("model.path", recipe.model)
    for phase in recipe.phases:
        for name, beside in phase.beside.items():
            if beside.model is not None:
                yield from _absent(f"phases[{phase.name}]: {name}.model.path", beside.model)
    for name, dataset in recipe.datasets.items():
        for column in dataset.format.columns if dataset.columns else ():
            if column not in dataset.columns:
                yield (
                    f"datasets.{name}.format: reads {column!r}, which its columns do not declare"
                    f"{meant(column, dataset.columns)}; declared: "
                    f"{', '.join(dataset.columns)}"
                )
