"""The two decisions of a retraining, as functions of counts and intervals."""

import pytest

from ftlib.data.listed import ListedFile
from ftlib.evaluation.measured import Estimate
from ftlib.evaluation.metrics import Metric
from ftlib.evaluation.results import Difference
from ftlib.recipe.recipe import Recipe
from ftlib.retraining.decisions import Champion, News, nothing_to_read, worth_promoting, worth_training
from ftlib.retraining.drift import Drift
from ftlib.retraining.file_ledger import Changes
from ftlib.retraining.policy import Retrain
from ftlib.testing import tiny_recipe

FILE = ListedFile(uri="a.jsonl", version="1", bytes=10)
NEW, SAME, GONE = (
    Changes(added=(FILE,), known=3),
    Changes(unchanged=(FILE,), known=1),
    Changes(vanished=(FILE,), known=9),
)


def champion(age: float = 1.0) -> Champion:
    return Champion(name="m", version=4, sequence=2, age_days=age)


def news(rows: int, changes: Changes = NEW, *drifts: Drift) -> dict[str, News]:
    return {"docs": News(changes=changes, fresh_rows=rows, drifts=drifts)}


def moved(*, large: bool) -> Drift:
    return Drift(feature="length", psi=0.5, distance=0.3, large=large)


def test_without_a_champion_it_trains_whatever_is_new():
    assert worth_training(news(0, SAME), None, Retrain()).go
    assert nothing_to_read({"docs": SAME}, None) is None


@pytest.mark.parametrize(
    ("changes", "said"), [(SAME, "no file is new or gone; version 4 stays"), (NEW, None), (GONE, None)]
)
def test_an_unchanged_listing_ends_it_before_a_row_is_read(changes: Changes, said: str | None):
    verdict = nothing_to_read({"docs": changes}, champion())
    assert (verdict.reasons[0] if verdict else None) == said


def test_files_that_are_still_being_written_are_named_as_waiting():
    verdict = nothing_to_read({"docs": Changes(waiting=(FILE,))}, champion())
    assert verdict is not None
    assert "1 file perhaps still being written" in verdict.reasons[0]


@pytest.mark.parametrize(("rows", "go"), [(99, False), (100, True)])
def test_a_training_is_worth_it_from_min_fresh_rows_on(rows: int, go: bool):
    verdict = worth_training(news(rows), champion(), Retrain(min_fresh_rows=100))
    assert verdict.go is go
    assert f"{rows} fresh rows (docs: 1 added)" in verdict.reasons[0]
    assert "100" in verdict.reasons[0]


def seen(fresh: int, gone: int | None, changes: Changes = NEW) -> dict[str, News]:
    return {"docs": News(changes=changes, fresh_rows=fresh, gone_rows=gone)}


@pytest.mark.parametrize(("fresh", "gone"), [(0, 0), (1, None)])
def test_rows_to_be_forgotten_are_a_reason_beside_any_number_of_fresh_ones(fresh: int, gone: int | None):
    assert not worth_training(seen(fresh, gone), champion(), Retrain(min_fresh_rows=100)).go
    verdict = worth_training(seen(fresh, gone), champion(), Retrain(min_fresh_rows=100), forgotten=2)
    assert verdict.go
    assert verdict.reasons == ("2 rows to be forgotten that the champion was trained on",)


@pytest.mark.parametrize("changes", [NEW, GONE])
def test_files_without_a_new_row_are_no_reason_not_even_for_an_old_champion(changes: Changes):
    verdict = worth_training(seen(0, 0, changes), champion(400), Retrain(max_age_days=7))
    assert (verdict.go, verdict.considered) == (False, True)
    assert "no row is new or gone" in str(verdict)


def test_rows_that_are_gone_are_a_reason_unless_they_may_be_edited_ones():
    verdict = worth_training(seen(0, 3), champion(), Retrain())
    assert verdict.go
    assert "3 rows gone that the champion was trained on" in str(verdict)
    few = worth_training(seen(3, 3), champion(), Retrain())
    assert (few.go, few.considered) == (False, False)
    assert worth_training(seen(3, 3, GONE), champion(), Retrain()).go


@pytest.mark.parametrize(("age", "go"), [(6.9, False), (7.1, True)])
def test_an_old_champion_is_a_reason(age: float, go: bool):
    assert worth_training(news(1), champion(age), Retrain(max_age_days=7)).go is go
    assert not worth_training(news(1), champion(age), Retrain()).go


def test_a_champion_from_the_future_counts_as_old_where_age_matters():
    verdict = worth_training(news(1), champion(-400.0), Retrain(max_age_days=7))
    assert verdict.go
    assert "put in place 400.0 days from now: a clock was wrong" in str(verdict)
    assert not worth_training(news(1), champion(-400.0), Retrain()).go
    assert not worth_training(news(1), champion(-0.01), Retrain(max_age_days=7)).go  # machines differ by minutes


@pytest.mark.parametrize("large", [True, False])
def test_a_large_drift_is_a_reason(large: bool):
    assert worth_training(news(1, NEW, moved(large=large)), champion(), Retrain()).go is large


def test_files_that_are_gone_are_a_reason_since_their_rows_are_in_the_champion():
    verdict = worth_training(news(0, GONE), champion(), Retrain())
    assert verdict.go
    assert "1 file gone" in str(verdict)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    from ftlib.recipe.file import load_recipe

    measured = "evaluations.home.metrics=[{kind: accuracy}, {kind: log_loss}]"
    return load_recipe(tiny_recipe(tmp_path_factory.mktemp("recipe")), [measured])


def difference(metric: str, low: float, high: float) -> Difference:
    estimate = Estimate(value=(low + high) / 2, low=low, high=high)
    return Difference.model_validate(
        {
            "ours": "x",
            "theirs": "champion",
            "evaluation": "home",
            "metric": metric,
            "estimate": estimate,
            "confidence": 0.95,
            "higher_is_better": metric == "accuracy",
            "p": 0.5,
        }
    )


def _compared(recipe: Recipe, path: str) -> tuple[str, Metric]:
    return path, recipe.metric(path)[1]


@pytest.mark.parametrize(
    ("metric", "low", "high", "rule", "go"),
    [
        ("accuracy", -0.02, 0.05, "not_worse", True),
        ("accuracy", -0.021, 0.05, "not_worse", False),
        ("accuracy", 0.0, 0.05, "better", False),
        ("accuracy", 0.001, 0.05, "better", True),
        # Less loss is better: what must stay within the margin is the upper end.
        ("log_loss", -0.05, 0.02, "not_worse", True),
        ("log_loss", -0.05, 0.021, "not_worse", False),
        ("log_loss", -0.05, -0.001, "better", True),
        ("log_loss", 0.001, 0.05, "better", False),
    ],
)
def test_the_gate_reads_the_end_of_the_interval_that_hurts(
    recipe: Recipe, metric: str, low: float, high: float, rule: str, go: bool
):
    policy = Retrain.model_validate({"compare": f"home/{metric}", "promote": rule, "margin": 0.02})
    verdict = worth_promoting([difference(metric, low, high)], policy, *_compared(recipe, f"home/{metric}"))
    assert verdict.go is go
    assert f"home/{metric} differs by" in verdict.reasons[0]


def test_a_comparison_that_is_undefined_promotes_nothing(recipe: Recipe):
    undefined = Estimate(value=None, low=None, high=None, undefined="all rows have the same label")
    for rule in ("not_worse", "better"):
        policy = Retrain.model_validate({"compare": "home/accuracy", "promote": rule, "margin": 1.0})
        found = difference("accuracy", 0.1, 0.2).model_copy(update={"estimate": undefined, "p": None})
        verdict = worth_promoting([found], policy, *_compared(recipe, "home/accuracy"))
        assert not verdict.go
        assert verdict.reasons[0].startswith("home/accuracy is undefined here: all rows have the same label; ")


def test_a_champion_that_cannot_be_compared_leaves_it_to_the_gates(recipe: Recipe):
    verdict = worth_promoting([], recipe.retrain, *_compared(recipe, recipe.select.by))
    assert verdict.go
    assert "gates alone decide" in verdict.reasons[0]


def test_the_policy_is_no_part_of_any_stage_s_identity(recipe: Recipe):
    from ftlib.fingerprint import identify

    other = recipe.model_copy(update={"retrain": Retrain(min_fresh_rows=7, approval="by_hand")})
    assert identify(other) == identify(recipe)
