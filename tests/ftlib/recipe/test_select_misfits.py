"""What `select` may ask of a recipe is checked before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from ftlib.errors import RecipeError
from ftlib.recipe.file import load_recipe
from ftlib.recipe.recipe import Recipe
from ftlib.testing import tiny_recipe


@pytest.mark.parametrize(
    ("select", "message"),
    [
        ({"rule": "constrained", "by": "away/accuracy"}, "select.subject_to: .* the rule is 'constrained': give it"),
        ({"rule": "knee", "by": "away/accuracy"}, "select.subject_to: .* the rule is 'knee': give it"),
        ({"by": "away/accuracy", "subject_to": "away/accuracy"}, "the rule is 'best': remove it"),
        ({"by": "away/accuracy", "max_drop": 0.1}, "select.max_drop: .* the rule is 'best': remove it"),
        (
            {"rule": "knee", "by": "away/accuracy", "subject_to": "away/accuracy"},
            "a knee lies between two metrics, and by and subject_to are both 'away/accuracy'",
        ),
        ({"rule": "fixed", "by": "away/accuracy"}, "'fixed' and alpha go together"),
        ({"by": "away/accuracy", "alpha": 0.5}, "'fixed' and alpha go together"),
        ({"rule": "fixed", "alpha": 0.4, "by": "away/accuracy"}, "no candidate will lie at 0.4; .* has 0, 0.5, 1"),
        ({"by": "away/accuracy", "plus": {"away/mcc": 1}}, r"select.plus\[0\]: 'away/mcc' is not measured"),
        ({"by": "away/accuracy", "plus": {"away/accuracy": 1}}, "is select.by already"),
        ({"by": "away/accuracy", "smoothed": True}, "a curve along alpha needs at least 4 candidates.* has 3"),
        ({"rule": "knee", "by": "away/accuracy", "smoothed": True}, "go by the curve, no other rule; .* is 'knee'"),
        ({"rule": "within", "by": "away/accuracy"}, "'within' needs both divergence .* and at_most"),
        (
            {"rule": "within", "by": "away/accuracy", "divergence": "away/accuracy", "at_most": 0.1},
            "'away/accuracy' is no divergence of an evaluation .* are away/kl_to_start, home/kl_to_start",
        ),
        ({"rule": "within", "by": "away/accuracy", "divergence": "no/kl_to_start", "at_most": 1}, "is no divergence"),
        ({"by": "away/accuracy", "at_most": 0.1}, "select.at_most: 'within' reads it, no other rule"),
        ({"by": "away/accuracy", "divergence": "away/kl_to_start"}, "select.divergence: 'within' reads it"),
        ({"rule": "within", "by": "away/accuracy", "at_most": 0}, "select.at_most: .*greater than 0"),
    ],
)
def test_a_rule_that_does_not_fit_is_one_line(tmp_path: Path, select: dict[str, object], message: str) -> None:
    path = tiny_recipe(tmp_path)
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "select": select}))
    with pytest.raises(RecipeError, match=message):
        load_recipe(path, ())


@pytest.mark.parametrize(
    ("select", "interpolation", "message"),
    [
        ({"smoothed": True}, {"kind": "lines"}, "select.smoothed: interpolation 'lines' has not one candidate at each"),
        ({"rule": "dawin"}, {"kind": "lines"}, "'dawin' chooses an alpha, and interpolation 'lines'"),
        (
            {"rule": "within", "divergence": "away/kl_to_start", "at_most": 1.0},
            {"kind": "off"},
            "'within' compares candidates with the start, and interpolation 'off' has none",
        ),
    ],
)
def test_a_rule_along_alpha_needs_the_candidates_of_one(
    tmp_path: Path, select: dict[str, object], interpolation: dict[str, object], message: str
) -> None:
    path = tiny_recipe(tmp_path)
    recipe = yaml.safe_load(path.read_text()) | {"interpolation": interpolation}
    path.write_text(yaml.safe_dump(recipe | {"select": {"by": "away/accuracy", **select}}))
    with pytest.raises(RecipeError, match=message):
        load_recipe(path, ())


def test_entropies_of_one_label_per_row_are_what_dawin_reads() -> None:
    recipe = Path(__file__).parents[3] / "recipes" / "completions.yaml"
    by = load_recipe(recipe, ()).select.by
    with pytest.raises(
        RecipeError, match="'dawin' reads answers of one label per row, and those to 'completions' rows"
    ):
        load_recipe(recipe, [f"select={{rule: dawin, by: {by}}}"])


@pytest.mark.parametrize(
    ("phases", "interpolation", "message"),
    [
        ([{"kind": "lora"}], {"kind": "wise_ft"}, None),
        ([{"kind": "lora"}], {"kind": "slerp"}, "must be 'wise_ft', 'lines', 'blocks' or 'off'"),
        ([{"kind": "lora"}], {"kind": "slerp"}, "interpolation 'slerp' must be 'wise_ft'"),
        ([{"kind": "lora", "use_dora": True}], {"kind": "off"}, None),
        ([{"kind": "lora", "use_dora": True}], {"kind": "wise_ft"}, "scaling a DoRA adapter gives another model"),
        ([{"kind": "full"}], {"kind": "wise_ft"}, "tuning 'full' of the last phase makes none"),
        ([{"kind": "full"}, {"kind": "lora"}], {"kind": "wise_ft"}, "stand on the base model, and phase1 moved it"),
    ],
)
def test_an_adapter_is_published_where_it_means_something(
    tmp_path: Path, phases: list[dict[str, object]], interpolation: dict[str, object], message: str | None
) -> None:
    path = tiny_recipe(tmp_path)
    recipe = yaml.safe_load(path.read_text())
    probe = {**recipe["phases"][0], "name": "phase0", "tuning": {"kind": "linear_probe"}}
    more = [{**probe, "name": f"phase{i}", "tuning": tuning} for i, tuning in enumerate(phases, 1)]
    recipe |= {"phases": [probe, *more], "interpolation": interpolation}
    recipe["publish"]["adapter"] = True
    recipe["select"] = {"by": "away/accuracy"}
    path.write_text(yaml.safe_dump(recipe))
    if message is None:
        assert load_recipe(path, ()).publish.adapter
    else:
        with pytest.raises(RecipeError, match=message):
            load_recipe(path, ())


def test_a_recipe_on_record_which_says_every_field_is_a_recipe(tmp_path: Path) -> None:
    path = tiny_recipe(tmp_path)
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "select": {"by": "away/accuracy"}}))
    recipe = load_recipe(path, ())
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe


def test_a_metric_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    path = tiny_recipe(tmp_path)
    recipe = yaml.safe_load(path.read_text())
    recipe["evaluations"]["away"]["metrics"] += [{"kind": "ece"}, {"kind": "ece", "bins": 5}]
    path.write_text(yaml.safe_dump(recipe))
    with pytest.raises(RecipeError, match=r"evaluations.away.metrics: ece is there twice"):
        load_recipe(path, ())
