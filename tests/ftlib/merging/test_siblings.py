"""Fine-tunes from elsewhere: a stage's folder, a published version, and what a recipe may ask for."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftlib.errors import ModelError, RecipeError, StorageError
from ftlib.merging.interpolation import Soup
from ftlib.merging.siblings import find_sibling
from ftlib.models.checkpoint import Checkpoint
from ftlib.recipe.file import load_recipe
from ftlib.registry import ModelRegistry
from ftlib.registry.versions import Manifest, file_of
from ftlib.stages.interpolate import InterpolateJob, interpolate
from ftlib.storage import LocalStore
from ftlib.testing import LABELS, tiny_checkpoint, tiny_recipe
from ftlib.workspace import RECORD, Workspace


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkpoint, Checkpoint]:
    root = tmp_path_factory.mktemp("pair")
    start = tiny_checkpoint(root / "start", phase="probe")
    return start, tiny_checkpoint(root / "end", phase="tune", start=start, seed=1)


def published(root: Path, checkpoint: Checkpoint, lineage: dict[str, object]) -> ModelRegistry:
    registry = ModelRegistry(LocalStore(root / "registry"))
    folder = checkpoint.path / "model"
    files = tuple(file_of(folder, path.name) for path in sorted(folder.iterdir()))
    manifest = Manifest.model_validate(
        {"name": "demo", "description": "", "files": files, "metrics": {}, "lineage": lineage}
    )
    registry.publish(manifest, folder, "key", lambda _: None, root)
    return registry


def test_a_stage_s_folder_is_the_checkpoint(pair: tuple[Checkpoint, Checkpoint], tmp_path: Path) -> None:
    (pair[1].path / RECORD).write_text(pair[1].model_dump_json())
    registry = ModelRegistry(LocalStore(tmp_path))
    assert find_sibling(str(pair[1].path), registry, tmp_path).digest() == pair[1].digest()
    with pytest.raises(ModelError, match=f"has no {RECORD}"):
        find_sibling(str(tmp_path), registry, tmp_path)


def test_a_version_is_pulled_and_mixes_with_the_run_s_own(pair: tuple[Checkpoint, Checkpoint], tmp_path: Path) -> None:
    start, end = pair
    weights = {"published": end.weights, "start": start.weights}
    registry = published(tmp_path, end, {"weights": weights, "base_model": {"tokenizer": start.tokenizer}})
    found = find_sibling("demo@1", registry, tmp_path / "versions")
    assert (found.weights, found.parent, found.labels, found.phase) == (end.weights, start.weights, LABELS, "demo@1")
    mine = tiny_checkpoint(tmp_path / "mine", phase="tune", start=start, seed=2)
    job = InterpolateJob(start=start, end=mine, siblings=(found,), interpolation=Soup(siblings=("demo@1",)))
    names = [member.name for member in interpolate(job, Workspace(tmp_path / "work")).members]
    assert names == ["probe", "demo@1", "soup", "tune"]
    stranger = found.model_copy(update={"parent": "0" * 64})
    with pytest.raises(ModelError, match=r"'demo@1' was not trained from 'probe'"):
        interpolate(job.model_copy(update={"siblings": (stranger,)}), Workspace(tmp_path / "other"))


def test_a_version_without_lineage_an_alias_and_a_typo_are_refused(
    pair: tuple[Checkpoint, Checkpoint], tmp_path: Path
) -> None:
    registry = published(tmp_path, pair[1], {})
    with pytest.raises(ModelError, match="does not say what it was trained from"):
        find_sibling("demo@1", registry, tmp_path / "versions")
    for spec in ("demo@champion", "demo"):
        with pytest.raises(ModelError, match="is no folder"):
            find_sibling(spec, registry, tmp_path / "versions")
    with pytest.raises(StorageError):
        find_sibling("demo@9", registry, tmp_path / "versions")


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("{kind: soup}", "'soup' needs at least 1 more fine-tune"),
        ("{kind: soup, seeds: [0]}", "interpolation.seeds: 0 and the recipe's 0 must all differ"),
        ("{kind: model_stock, seeds: [1, 1]}", "must all differ"),
        ("{kind: wise_ft, modules: {head: 1.5}}", "interpolation.modules"),
        ("{kind: wise_ft, seeds: [1]}", "seeds"),
        ("{kind: ties, density: 0}", "density"),
    ],
)
def test_recipes_that_do_not_fit_are_named(method: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe(tiny_recipe(tmp_path), [f"interpolation={method}"])


def test_a_soup_without_siblings_is_refused_by_the_stage_too(
    pair: tuple[Checkpoint, Checkpoint], tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match="needs at least 1 more fine-tune"):
        interpolate(InterpolateJob(start=pair[0], end=pair[1], interpolation=Soup()), Workspace(tmp_path))
