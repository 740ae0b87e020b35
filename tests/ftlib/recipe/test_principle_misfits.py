"""Phases whose pairs principles make: what does not fit together, and what a file of principles lacks."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftlib.errors import RecipeError
from ftlib.recipe.file import load_recipe
from ftlib.recipe.preflight import check_principles
from ftlib.recipe.recipe import Recipe

PATH = Path(__file__).parents[3] / "recipes" / "principles.yaml"


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["phases.0.objective={kind: completion}", "phases.0.scores={}"], "which principles make of its prompts 'pref"),
        (["phases.0.principles.critic={phase: later}"], "principles.critic: 'later' is no end of an earlier phase"),
        (["phases.0.principles.critic={}"], "phases[revise].principles.critic: give `model` or `phase`, got neither"),
        (["phases.0.answers={phase: base}"], "pairs are made of the model's own drafts, and `answers` would write"),
        (["datasets.synopses.format={kind: plain_text, text: t}"], "rows of 'synopses' are 'tokens', and a causal"),
        (["datasets.synopses.format.tools=tools"], "rows of 'synopses' offer tools, and drafts call none"),
        (["phases.0.principles.checkers={1: {kind: model, of: judge}}"], "principles.checkers.1"),
        (["phases.0.principles.critique='Is it good?'"], "phases[revise].principles.critique"),
        (["phases.0.principles.max_new_tokens=0"], "phases[revise].principles.max_new_tokens"),
    ],
)
def test_what_does_not_fit_is_one_line(overrides: list[str], line: str) -> None:
    with pytest.raises(RecipeError) as raised:
        load_recipe(PATH, overrides)
    assert line in str(raised.value)


def test_the_file_is_read_before_anything_is_trained(tmp_path: Path) -> None:
    file = tmp_path / "principles.txt"
    recipe = load_recipe(PATH, [f"phases.0.principles.file={file}"])
    with pytest.raises(RecipeError, match=r"phases\[revise\]\.principles\.file: .*No such file or directory"):
        check_principles(recipe)
    file.write_text("# none\n")
    with pytest.raises(RecipeError, match="holds no principle; write one plain sentence a line"):
        check_principles(recipe)
    file.write_text("Be short.\n")
    with pytest.raises(RecipeError, match=r"checkers: 2 is no place of a principle; .* has 1, counted from 1"):
        check_principles(recipe)


def test_a_recipe_comes_back_from_its_record() -> None:
    recipe = load_recipe(PATH, ["phases.0.principles.critic={phase: base}"])
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe
    assert recipe.kind(recipe.phases[0]) == "preferences"
    assert list(recipe.phases[0].beside) == ["reference", "critic"]
