"""What a recipe says of rewards and reward models that cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftlib.errors import RecipeError
from ftlib.recipe.file import load_recipe

RECIPE = Path(__file__).parents[3] / "recipes" / "reward.yaml"
COMPLETIONS = RECIPE.with_name("completions.yaml")


@pytest.mark.parametrize(
    ("recipe", "changed", "message"),
    [
        (RECIPE, "phases.probe.objective.centring=0.01", "'linear_probe' solves for the plain likelihood of pairs"),
        (RECIPE, "phases.tune.objective.margin_scale=1", None),
        (RECIPE, "datasets.films.format.margin=null", None),
        (RECIPE, "evaluations.films.metrics=[{kind: accuracy}]", "'accuracy' needs 'labeled' batches"),
        (RECIPE, "evaluations.films.metrics=[{kind: reward, reward: {kind: regex, pattern: a}}]", "batches"),
        (COMPLETIONS, "{kind: reward, reward: {kind: exact_match}}", None),
        (COMPLETIONS, "{kind: reward, reward: {kind: model}}", "its reward asks reward, got none"),
        (COMPLETIONS, "{kind: reward, reward: {kind: python, function: 'nowhere:f'}}", "its reward needs nowhere"),
        (
            COMPLETIONS,
            "{kind: win_rate, judge: {kind: reward, reward: {kind: python, function: 'nowhere:f'}}}",
            "nowhere",
        ),
        (COMPLETIONS, "{kind: win_rate, judge: {kind: endpoint, url: 'http://127.0.0.1:1/v1', model: m}}", None),
    ],
    ids=lambda value: str(value)[-40:],
)
def test_what_does_not_fit_is_one_line(recipe: Path, changed: str, message: str | None) -> None:
    if recipe == COMPLETIONS:
        name = next(iter(load_recipe(recipe).evaluations))
        overrides = [
            f"evaluations.{name}.metrics=[{{kind: perplexity}}, {changed}]",
            f"evaluations.{name}.max_new_tokens=8",
        ]
    else:
        overrides = [changed]
    if message is None:
        load_recipe(recipe, overrides)
        return
    with pytest.raises(RecipeError, match=message):
        load_recipe(recipe, overrides)


def test_a_margin_that_is_not_there_cannot_be_learnt() -> None:
    with pytest.raises(RecipeError, match=r"margin_scale: rows of films have no margin; name its column"):
        load_recipe(RECIPE, ["phases.tune.objective.margin_scale=1", "datasets.films.format.margin=null"])
