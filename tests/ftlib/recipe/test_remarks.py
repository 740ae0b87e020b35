"""What is remarked of a recipe that fits together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ftlib.recipe.file import load_recipe
from ftlib.recipe.recipe import Recipe
from ftlib.recipe.remarks import interpolation_remarks

RECIPES = Path(__file__).parents[3] / "recipes"


def with_method(recipe: str, interpolation: dict[str, Any]) -> Recipe:
    loaded = load_recipe(RECIPES / f"{recipe}.yaml")
    return Recipe.model_validate({**loaded.model_dump(), "interpolation": interpolation})


@pytest.mark.parametrize(
    ("kind", "said"),
    [("ties", "31 % (two fine-tunes), 12 % (four) and 0 % (twelve)"), ("model_stock", "+0.13 (twelve)")],
)
def test_ties_and_model_stock_are_remarked_on_for_causal_models_alone(kind: str, said: str) -> None:
    (remark,) = interpolation_remarks(with_method("causal_lm", {"kind": kind, "seeds": [1]}))
    assert remark.startswith("interpolation: ")
    assert said in remark
    assert list(interpolation_remarks(with_method("soup", {"kind": kind, "seeds": [1]}))) == []
    assert list(interpolation_remarks(with_method("translation", {"kind": kind, "seeds": [1]}))) == []
    assert list(interpolation_remarks(with_method("causal_lm", {"kind": "wise_ft"}))) == []
