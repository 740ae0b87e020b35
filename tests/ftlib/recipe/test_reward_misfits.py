"""What a recipe says of rewards and reward models that cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.run.candidate_jobs import evaluate_job
from flows.run.models_beside import find_asked
from ftlib.errors import ModelError, RecipeError
from ftlib.recipe.file import load_recipe
from ftlib.recipe.preflight import check_rewards
from ftlib.testing import tiny_classifier, tiny_prepared

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
        (
            COMPLETIONS,
            "{kind: reward, reward: {kind: json_schema, valid_against: {'$ref': '#/$defs/x'}}}",
            r"\$ref '#/\$defs/x' leads nowhere in the schema",
        ),
        (
            COMPLETIONS,
            "{kind: reward, reward: {kind: json_schema, valid_against: {'$ref': '#/$defs/x', '$defs': {x: {}}}}}",
            None,
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


PYTHON = "{kind: python, function: 'json:nosuch'}"


@pytest.mark.parametrize(
    ("recipe", "changed", "where"),
    [
        ("completions", "{kind: reward, reward: %s}", r"evaluations\.\w+: 'reward': json:nosuch"),
        (
            "completions",
            "{kind: win_rate, judge: {kind: reward, reward: %s}}",
            r"evaluations\.\w+: 'win_rate': json:no",
        ),
        ("completions", "{kind: pass_at_k, checker: %s}", r"evaluations\.\w+: 'pass_at_1': json:nosuch"),
        (
            "completions",
            "{kind: win_rate, judge: {kind: endpoint, url: 'https://a.b/v1', model: m, key_env: NO_SUCH_KEY}}",
            "the environment has no NO_SUCH_KEY",
        ),
        ("grpo", "phases.0.objective.reward=%s", r"phases\[\w+\]\.objective\.reward: json:nosuch"),
        ("principles", "phases.0.principles.checkers={1: %s}", r"principles\.checkers\.1: json:nosuch"),
    ],
    ids=["reward", "win_rate", "pass_at_k", "endpoint", "objective", "checker"],
)
def test_check_says_what_no_reward_or_judge_can_be_asked(recipe: str, changed: str, where: str) -> None:
    path, changed = RECIPE.with_name(f"{recipe}.yaml"), changed.replace("%s", PYTHON)
    if recipe == "completions":
        of = f"evaluations.{next(iter(load_recipe(path).evaluations))}"
        changed = f"{of}.metrics=[{{kind: perplexity}}, {changed}]"
        overrides = [changed, f"{of}.max_new_tokens=8", f"{of}.samples={{count: 2}}"]
    else:
        overrides = [changed]
    recipe_with_it = load_recipe(path, overrides)  # it fits together: another machine may have what is missing here
    with pytest.raises(RecipeError, match=where):
        check_rewards(recipe_with_it)


def test_a_run_looks_for_the_models_that_metrics_ask_and_their_weights_count(tmp_path: Path) -> None:
    folder = tiny_classifier(tmp_path / "judge", ("one",))
    of = next(iter(load_recipe(COMPLETIONS).evaluations))
    asked = f"{{kind: win_rate, judge: {{kind: model, model: {{path: '{folder}'}}}}}}"
    overrides = [f"evaluations.{of}.metrics=[{{kind: perplexity}}, {asked}]", f"evaluations.{of}.max_new_tokens=8"]
    recipe = load_recipe(COMPLETIONS, overrides)
    find_asked(recipe)
    data = {name: tiny_prepared(tmp_path / name, {}, kind="completions") for name in recipe.datasets}
    (plain, one) = (evaluate_job(made, of, [], data, "test") for made in (load_recipe(COMPLETIONS), recipe))
    assert plain.asked == {}
    tiny_classifier(tmp_path / "other", ("one",), seed=9)
    (tmp_path / "other" / "model.safetensors").replace(folder / "model.safetensors")
    assert evaluate_job(recipe, of, [], data, "test").fingerprint != one.fingerprint
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match=f"evaluations.{of}: 'win_rate'"):
        find_asked(recipe)


def test_a_margin_that_is_not_there_cannot_be_learnt() -> None:
    with pytest.raises(RecipeError, match=r"margin_scale: rows of films have no margin; name its column"):
        load_recipe(RECIPE, ["phases.tune.objective.margin_scale=1", "datasets.films.format.margin=null"])
