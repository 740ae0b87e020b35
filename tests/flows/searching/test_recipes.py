"""What a search asks for: recipes of trials, what cannot be tried, and how far a trial goes. Nothing is trained."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from prefect import Task as PrefectTask
from prefect._internal.engine import resolve_custom_task_run_name

from flows.command_line.main import main
from flows.run.steps import steps
from flows.searching.process import trial_steps
from flows.searching.recipes import Searched, best_first, ingredients, soup_of
from flows.searching.trials import task_name
from ftlib.artifacts import Artifact
from ftlib.errors import RecipeError
from ftlib.evaluation.measured import Estimate
from ftlib.recipe.file import load_recipe
from ftlib.search.trial import Outcome, Trial
from ftlib.stages.step import Step, walk
from ftlib.workspace import Workspace
from tests.flows.run.test_steps import given, made_up

RATE = "phases.tune.optimizer.learning_rate"
EPOCHS = "phases.tune.optimizer.epochs"


def asked(path: Path, *tries: str, overrides: tuple[str, ...] = (), **changes: Any) -> Searched:
    return Searched.load(path, overrides, tries, **changes)


def walked(which: Any, recipe: Any, work: Workspace) -> list[tuple[str, str | None]]:
    seen: list[tuple[str, str | None]] = []

    def answer(step: Step) -> Artifact:
        assert step.job
        seen.append((step.label, step.job.fingerprint))
        return made_up(step.job)

    walk(which(recipe, work, given(recipe, work)), answer)
    return seen


def test_a_trial_is_a_run_up_to_its_choice_and_reads_no_test_row(tiny_recipe: Path, tmp_path: Path) -> None:
    work = Workspace(tmp_path)
    searched = asked(tiny_recipe, f"{RATE}=1e-5..1e-2 log")
    trial = walked(trial_steps, searched.of({RATE: 0.003}), work)
    run = walked(steps, load_recipe(tiny_recipe, [f"{RATE}=0.003"]), work)
    assert trial == run[: len(trial)]
    assert trial[-1][0] == "select"
    assert not any("test" in label for label, _ in trial)
    assert [label for label, _ in run[len(trial) :]][:2] == ["evaluate home test", "evaluate away test"]


def test_what_is_searched_changes_no_fingerprint(tiny_recipe: Path, tmp_path: Path) -> None:
    work = Workspace(tmp_path)
    plain = load_recipe(tiny_recipe)
    with_search = load_recipe(
        tiny_recipe, [f"search={{trials: 3, space: {{{RATE}: {{kind: uniform, low: 0, high: 1}}}}}}"]
    )
    assert with_search.search.trials == 3
    assert walked(steps, plain, work) == walked(steps, with_search, work)


@pytest.mark.parametrize(
    ("tried", "said"),
    [
        ("phases.tune.optimizer.learning_rat=1..2", "did you mean 'learning_rate'"),
        ("phases.tuna.optimizer.epochs=1..2", "did you mean 'tune'"),
        ("compute.workers=0..2", "changes no result"),
        ("publish.name=[a, b]", "where the result goes"),
        ("retrain.margin=0.1..0.2", "when to train"),
        ("search.trials=1..2", "what is tried"),
        ("encryption.kms_key=[a, b]", "changes no result"),
        ("evaluations.home.resamples=100..200", "must measure the same"),
        ("datasets.home.split.test=0.1..0.2", "must be the same"),
        ("select.by=[home/accuracy, away/accuracy]", "must be the same"),
        ("select=[{rule: best, by: home/accuracy}, {rule: best, by: away/accuracy}]", "must be the same"),
        ("datasets.home.split=[{by: random, validation: 0.3}, {by: random, validation: 0.4}]", "must be the same"),
        ("datasets.home.source.path=[a.jsonl, b.jsonl]", "list when it begins"),
        (f"{EPOCHS}=0..3", "greater than 0"),
        ("phases.tune.optimizer.batch_size=1.0..9.0", "valid integer"),
        ("phases.tune.tuning.kind=[full, lorra]", "did you mean 'lora'"),
    ],
)
def test_what_cannot_be_tried_is_said_before_anything_starts(tiny_recipe: Path, tried: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said) as caught:
        asked(tiny_recipe, tried).check()
    assert str(caught.value).startswith(f"search.space: {tried.partition('=')[0]}")


def test_check_holds_a_recipes_space_against_it_as_search_does(tiny_recipe: Path) -> None:
    words = f"search.space={{{RATE}: {{kind: uniform, low: -1, high: 1}}}}"
    done = CliRunner().invoke(main, ["check", str(tiny_recipe), "--set", words, "--json"])
    with pytest.raises(RecipeError) as caught:
        asked(tiny_recipe, overrides=(words,)).check()
    assert done.exit_code == 2
    assert json.loads(done.stdout)["error"]["message"] == str(caught.value)
    assert CliRunner().invoke(main, ["check", str(tiny_recipe), "--set", words.replace("-1", "0.1")]).exit_code == 0


def test_a_trial_of_a_group_of_fields_is_called_by_it() -> None:
    words = 'trial 0 · tuning={"kind": "lora", "rank": 8}'
    run = PrefectTask(lambda: None, task_run_name=task_name(words))
    assert resolve_custom_task_run_name(run, {}) == words
    assert resolve_custom_task_run_name(run.with_options(task_run_name=task_name("{" * 200)), {}) == "{" * 100


def test_a_soup_that_no_recipe_could_make_is_refused_before_the_first_trial(tiny_recipe: Path) -> None:
    asked(tiny_recipe, f"{EPOCHS}=1..2", soup=2).check()
    alone = "phases=[{name: tune, dataset: home, objective: {kind: classification}, tuning: {kind: full}}]"
    with pytest.raises(RecipeError, match=r"search\.soup: interpolation: 'soup' starts from weights .* set soup to 1"):
        asked(tiny_recipe, f"{EPOCHS}=1..2", overrides=(alone, "interpolation={kind: off}"), soup=2).check()


def test_a_budget_that_a_search_would_not_keep_is_refused(tiny_recipe: Path) -> None:
    searched = asked(tiny_recipe, f"{EPOCHS}=1..2", overrides=("compute.budget=5",))
    searched.check_plan()
    with pytest.raises(RecipeError, match=r"compute\.budget: 5 is asked for, but a search .*compute\.budget to null$"):
        searched.check()
    asked(tiny_recipe, f"{EPOCHS}=1..2", overrides=("compute.budget=5", "compute.budget=null")).check()


def test_a_search_for_nothing_or_by_nothing_is_refused(tiny_recipe: Path) -> None:
    with pytest.raises(RecipeError, match="nothing to try"):
        asked(tiny_recipe).check()
    with pytest.raises(RecipeError, match="'home/recall' is not measured; there are away/accuracy"):
        asked(tiny_recipe, f"{EPOCHS}=1..2", metric="home/recall").check()
    with pytest.raises(RecipeError, match=r"search\.trials: input should be greater"):
        asked(tiny_recipe, f"{EPOCHS}=1..2", trials=0)


@pytest.mark.parametrize(
    ("tried", "overrides", "said"),
    [
        (f"{EPOCHS}=1..2", (), "evaluations_per_epoch"),
        (f"{EPOCHS}=1..2", ("phases.tune.tuning={kind: linear_probe}", "interpolation={kind: off}"), "takes no steps"),
        (
            "phases.tune.objective.label_smoothing=0.0..0.2",
            ("phases.tune.evaluations_per_epoch=4",),
            "changes what a validation loss is",
        ),
        (
            "phases=[[{name: tune, dataset: home, objective: {kind: classification, focus: 1}, tuning: {kind: full}, "
            "evaluations_per_epoch: 4}], [{name: tune, dataset: home, objective: {kind: classification}, "
            "tuning: {kind: full}, evaluations_per_epoch: 4}]]",
            ("phases.tune.evaluations_per_epoch=4", "interpolation={kind: off}"),
            "changes what a validation loss is",
        ),
        (
            "datasets.home.format.max_tokens=8..16",
            ("phases.tune.evaluations_per_epoch=4",),
            "changes what a validation loss is",
        ),
    ],
)
def test_halving_needs_losses_on_the_way_that_can_be_compared(
    tiny_recipe: Path, tried: str, overrides: tuple[str, ...], said: str
) -> None:
    with pytest.raises(RecipeError, match=said):
        asked(tiny_recipe, tried, overrides=(*overrides, "search.halving={}")).check()


def test_the_recipes_own_values_are_points_where_the_space_has_them(tiny_recipe: Path) -> None:
    tuning = "phases.tune.tuning=[{kind: lora}, {kind: full}]"
    assert asked(tiny_recipe, f"{RATE}=1e-5..1e-2 log", f"{EPOCHS}=1..3", tuning).own == {
        RATE: 1e-3,
        EPOCHS: 1,
        "phases.tune.tuning": 1,
    }
    assert asked(tiny_recipe, f"{RATE}=1e-5..1e-4 log").own is None


def test_the_recipes_own_value_is_tried_to_its_last_digit(tiny_recipe: Path) -> None:
    searched = asked(tiny_recipe, f"{RATE}=1e-5..1e-2 log", overrides=(f"{RATE}=3.16228e-5",))
    assert searched.own is not None
    values = {path: searched.search.space[path].value(point) for path, point in searched.own.items()}
    assert searched.of(values) == searched.recipe
    assert asked(tiny_recipe, "phases[-1].optimizer.epochs=1..3").own == {"phases[-1].optimizer.epochs": 1}


def test_values_reach_the_recipe_as_they_are_and_the_command_makes_the_same(tiny_recipe: Path) -> None:
    searched = asked(tiny_recipe, f"{RATE}=1e-5..1e-2 log", "phases.tune.tuning=[{kind: lora, rank: 2}, {kind: full}]")
    values = {RATE: 1.234e-05, "phases.tune.tuning": {"kind": "lora", "rank": 2}}
    recipe = searched.of(values)
    assert recipe.phases[-1].optimizer.learning_rate == 1.234e-05
    assert recipe == load_recipe(tiny_recipe, searched.overrides_of(values))
    assert searched.recipe == load_recipe(tiny_recipe)  # what was built before is not changed by it


def trial(number: int, value: float | None, start: str = "a", end: str = "") -> Trial:
    state = "done" if value is not None else "diverged"
    estimate = None if value is None else Estimate(value=value, low=value, high=value)
    outcome = Outcome(state=state, value=estimate, started_from=start, end=end or f"/end/{number}")
    return Trial(number=number, points={}, values={}, outcome=outcome)


def test_the_best_is_the_best_in_the_metrics_direction_and_of_equals_the_first() -> None:
    trials = [trial(0, 0.5), trial(1, None), trial(2, 0.7), trial(3, 0.7), trial(4, 0.2)]
    assert [one.number for one in best_first(trials, maximize=True)] == [2, 3, 0, 4]
    assert [one.number for one in best_first(trials, maximize=False)] == [4, 0, 2, 3]


def test_a_soup_takes_other_ends_of_the_same_start() -> None:
    ranked = [trial(0, 0.9), trial(1, 0.8, start="b"), trial(2, 0.7, end="/end/0"), trial(3, 0.6), trial(4, 0.5)]
    chosen = ingredients(ranked, 2)
    assert [one.number for one in chosen] == [0, 3]
    assert soup_of(chosen) == ['interpolation={"kind": "soup", "order": "greedy", "siblings": ["/end/3"]}']
