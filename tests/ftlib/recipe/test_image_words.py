"""What of a recipe of images does not fit is said before anything starts, by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftlib.errors import RecipeError
from ftlib.recipe.file import load_recipe
from ftlib.testing import tiny_recipe

RECIPE = """
name: icons
model: {path: model}
datasets:
  icons: {source: {kind: files, path: rows.jsonl}, format: {kind: labeled_image}}
phases:
  - name: tune
    dataset: icons
    objective: {kind: classification}
    tuning: {kind: full}
evaluations: {icons: {dataset: icons, metrics: [{kind: accuracy}]}}
interpolation: {kind: "off"}
select: {by: icons/accuracy}
publish: {name: icons, to: {kind: folder, path: registry}}
compute: {workers: 0}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "icons.yaml").write_text(RECIPE)
    return tmp_path / "icons.yaml"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["phases.0.batch_norm=updated", "compute.workers=2"], r"which 2 workers split; set compute.workers to 0 or 1"),
        (["phases.0.batch_norm=updated", "compute.micro_batch_size=4"], r"which micro-batches of 4 split; set"),
        (
            ["phases.0.batch_norm=updated", "phases.0.tuning={kind: linear_probe}"],
            r"'linear_probe' takes no steps that",
        ),
        (
            ["phases.0.augmentation={kind: images}", "phases.0.tuning={kind: linear_probe}"],
            r"changes rows step by step",
        ),
        (
            ["phases.0.augmentation={kind: images}", "phases.0.objective={kind: mixup}"],
            r"phases\[tune\]\.augmentation: 'images' changes the rows that 'mixup' learns, but not those that it asks",
        ),
        (["phases.0.augmentation={kind: images, crop_scale: [0.9, 0.5]}"], r"allowed are two shares of the area"),
        (["phases.0.augmentation={kind: images, flip: 2}"], r"flip"),
        (["phases.0.augmentation={kind: image}"], r"kind: got 'image'|images"),
        (["phases.0.frozen=['(']"], r"'\(' is no regular expression"),
        (["phases.0.batch_norm=synced"], r"frozen.*updated"),
        (
            ["phases.0.objective={kind: causal_lm}"],
            r"'causal_lm' needs 'tokens' batches, but dataset 'icons' has format",
        ),
    ],
)
def test_what_does_not_fit_is_said(recipe: Path, overrides: list[str], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        load_recipe(recipe, overrides)


def test_what_fits_is_taken(recipe: Path) -> None:
    found = load_recipe(
        recipe, ["phases.0.batch_norm=updated", "phases.0.augmentation={kind: images}", "phases.0.frozen=[squeeze]"]
    )
    assert found.phases[0].augmentation is not None
    assert found.kind(found.phases[0]) == "labeled_images"


def test_texts_are_not_augmented_as_images(tmp_path: Path) -> None:
    path = tiny_recipe(tmp_path)
    with pytest.raises(RecipeError, match=r"augmentation: 'images' changes images, but the rows of 'home' are text"):
        load_recipe(path, ["phases.1.augmentation={kind: images}"])
