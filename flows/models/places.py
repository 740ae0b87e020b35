"""Find the model folder that a command or a form names: a path, a stage's output, a bucket, a package or a version."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ftlib.config import user_path
from ftlib.errors import ModelError, RecipeError
from ftlib.models.adapter import Bases
from ftlib.models.checkpoint import model_in
from ftlib.models.folder import output_folder, package_folder
from ftlib.registry import ModelRegistry
from ftlib.storage import Place, open_store
from ftlib.storage.model_folders import fetch_folder
from ftlib.storage.node_cache import is_output
from ftlib.storage.place import FOLDERS, is_remote
from ftlib.workspace import make_cache, user_cache


def model_folder(spec: str, registry: Place) -> Path:
    """Return a model folder: the one named, its `model/` where it is a stage's output, or what is fetched for it.

    That is a version, pulled from the registry, a folder of a bucket, or one of an installed package.
    """
    if is_output(spec):
        return output_folder(spec)
    cache = make_cache(user_cache())
    if is_remote(spec):
        return fetch_folder(registry.beside(spec), cache / "folders")
    if spec.startswith("package:"):
        return package_folder(spec)
    folder = user_path(spec)
    if folder.is_dir():
        inside = model_in(folder)
        return inside if (inside / "config.json").is_file() else folder
    if "@" not in spec:
        raise ModelError(
            f"{spec!r} is no folder here; give a model folder, package:module/folder, {FOLDERS}, or a version as name@3"
        )
    return _version(spec, registry)


def check_named_once(command: str, models: Sequence[str]) -> None:
    """Raise RecipeError if a command that compares models is given one of them twice."""
    if twice := sorted({model for model in models if models.count(model) > 1}):
        raise RecipeError(f"{command}: {', '.join(twice)} is named twice; name every model once")


@contextmanager
def called(name: str, folder: Path) -> Generator[None]:
    """Let what is wrong with a model be said under the name that the user gave it, not the place it was fetched to."""
    try:
        yield
    except ModelError as error:
        raise ModelError(str(error).replace(str(folder), name)) from error


def bases(registry: Place, given: tuple[Path, ...] = ()) -> Bases:
    """Say where the models that adapters stand on are looked for: folders that are given, and the registry's versions.

    A version is pulled once into the user's cache.
    """
    return Bases(lambda spec: _version(spec, registry), given)


def _version(spec: str, registry: Place) -> Path:
    return ModelRegistry(open_store(registry)).folder_of(spec, make_cache(user_cache()) / "versions")
