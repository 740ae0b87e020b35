"""What a recipe of captioned images may not ask, in a line each; and what its model must be."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from ftlib.errors import RecipeError
from ftlib.recipe.file import load_recipe
from ftlib.recipe.preflight import check_modality
from ftlib.recipe.recipe import Recipe
from ftlib.testing import tiny_image_classifier, tiny_pipeline

FOLDER = Path(__file__).parents[3] / "recipes"


def recipe(**changed: Any) -> Recipe:
    """Return recipes/diffusion_lora.yaml with fields of its phase, or of itself, changed."""
    plain = load_recipe(FOLDER / "diffusion_lora.yaml").model_dump(mode="json", exclude_unset=True)
    tuning = changed.pop("tuning", None)
    if tuning:
        plain["phases"][0]["tuning"] = tuning
    return Recipe.model_validate({**plain, **changed})


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"tuning": {"kind": "lora", "keep": "adapter"}}, "keep: adapter, but a version that draws images is a whole"),
        ({"tuning": {"kind": "lora", "use_dora": True}}, "low-rank matrices alone, and phase 'style' leaves more"),
        ({"tuning": {"kind": "ia3"}}, "matrices alone, and phase 'style' leaves those of 'ia3'"),
        (
            {"tuning": {"kind": "lora", "modules_to_save": ["conv_out"]}},
            "phase 'style' leaves more; remove",
        ),
        ({"tuning": {"kind": "full", "layer_decay": 0.9}}, "layer_decay: 0.9 tells layers apart by their depth"),
        ({"interpolation": {"kind": "lines"}}, "'lines' tells layers apart by their depth"),
        ({"interpolation": {"kind": "blocks"}}, "'blocks' tells layers apart by their depth"),
        ({"interpolation": {"kind": "wise_ft", "depth": [0.5, 1.0]}}, "use wise_ft without depth"),
        (
            {"publish": {"name": "emoji", "fisher": {"datasets": ["style"]}}},
            "publish.fisher.datasets: answers to 'captioned_images' rows, as those of 'style', are of no distribution",
        ),
        ({"compute": {"workers": 2, "sharding": "fsdp"}}, "compute.sharding: 'fsdp' works layer by layer"),
        ({"compute": {"workers": 0, "activation_checkpointing": "full"}}, "set it to none"),
        ({"tuning": {"kind": "gradual_unfreezing"}}, "'gradual_unfreezing' does not fit a U-Net; use full or lora"),
    ],
)
def test_what_does_not_fit_is_one_line(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as raised:
        recipe(**changed)
    assert said in str(raised.value)


def test_the_model_must_be_a_pipeline_and_a_pipelines_rows_captioned(tmp_path: Path) -> None:
    pipeline, classifier = tiny_pipeline(tmp_path / "pipeline"), tiny_image_classifier(tmp_path / "classifier")
    check_modality(recipe(), pipeline)
    with pytest.raises(RecipeError, match="is no pipeline of diffusers, but the rows of dataset 'style' are"):
        check_modality(recipe(), classifier)
    with pytest.raises(RecipeError, match="is a pipeline of diffusers, but the rows of dataset 'oxygen' are"):
        check_modality(load_recipe(FOLDER / "images.yaml"), pipeline)


def test_without_diffusers_a_recipe_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *a: None if name == "diffusers" else found(name, *a))
    with pytest.raises(RecipeError, match=r"needs the package 'diffusers', .* pip install 'reglage\[diffusion\]'"):
        load_recipe(FOLDER / "diffusion_lora.yaml")
