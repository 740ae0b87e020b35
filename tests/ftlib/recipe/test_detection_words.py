"""What a recipe of detection may say, and which models learn it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ftlib.errors import RecipeError
from ftlib.recipe.file import load_recipe
from ftlib.recipe.preflight import check_modality
from ftlib.testing import tiny_detector, tiny_image_classifier

RECIPE = Path(__file__).parents[3] / "recipes/detection.yaml"


@pytest.mark.parametrize("family", ["rt_detr", "deformable_detr", "conditional_detr"])
def test_detectors_of_sigmoids_are_refused_by_their_config(tmp_path: Path, family: str) -> None:
    detector = tiny_detector(tmp_path / "detector")
    check_modality(load_recipe(RECIPE), detector)
    config = json.loads((detector / "config.json").read_text())
    (detector / "config.json").write_text(json.dumps({**config, "model_type": family}))
    with pytest.raises(RecipeError, match=rf"is a '{family}' model, .* are learnt by 'detr' or 'yolos' alone"):
        check_modality(load_recipe(RECIPE), detector)


def test_a_classifier_finds_no_boxes(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="is a 'vit' model"):
        check_modality(load_recipe(RECIPE), tiny_image_classifier(tmp_path / "vit"))


def test_an_augmentation_would_leave_boxes_behind() -> None:
    with pytest.raises(RecipeError, match="the boxes of 'train' would stay where they are; say kind: mirror"):
        load_recipe(RECIPE, ["phases.0.augmentation={kind: images, flip: 1.0}"])
    load_recipe(RECIPE, ["phases.0.augmentation={kind: mirror}"])
