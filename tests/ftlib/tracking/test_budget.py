"""A budget is never passed by more than what one sign of life's interval costs; what was paid is paid once."""

from datetime import UTC, datetime

import pytest

from ftlib.costs.prices import Prices, Usage
from ftlib.costs.used import UNNAMED
from ftlib.errors import OverBudget, RecipeError
from ftlib.tracking import budget as budgets
from ftlib.tracking.budget import Budget, check_budget, spent_before
from ftlib.tracking.run_facts import RunFacts
from ftlib.training.compute import Compute

PRICES = Prices(currency="EUR", cpu_core_hour=3600.0)
"""A core costs 1 a second."""


class Clock:
    """Seconds that a test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def budget(limit: float, clock: Clock, spent: float = 0.0) -> Budget:
    return Budget(limit, PRICES, spent, lambda _: Usage(core_hours=1.0), clock)


def _train_three(watch: Budget, clock: Clock, interval: float) -> None:
    for stage in ("train a", "train b", "train c"):
        watch.begin(stage, 0.0)
        for _ in range(100):
            clock.now += interval
            watch.look()
        watch.end()


@pytest.mark.parametrize("interval", [0.1, 0.7, 3.0])
@pytest.mark.parametrize("limit", [0.0, 1.0, 9.9])
def test_it_is_passed_by_less_than_one_interval(limit, interval):
    clock = Clock()
    watch = budget(limit, clock)
    with pytest.raises(OverBudget):
        _train_three(watch, clock, interval)
    watch.end()
    assert watch.spent <= limit + interval + 1e-9


def test_a_stage_that_would_pass_it_does_not_begin():
    watch = budget(10.0, Clock(), spent=4.0)
    watch.begin("train a", 6.0)
    watch.end()
    with pytest.raises(OverBudget, match=r"4\.00 of 10 EUR are spent, and train b would cost about 6\.50 EUR more"):
        watch.begin("train b", 6.5)


def test_what_ends_is_spent_once():
    clock = Clock()
    watch = budget(10.0, clock)
    watch.begin("train a", 0.0)
    clock.now += 2.0
    watch.end()
    watch.end()
    clock.now += 5.0  # nothing goes on
    watch.look()
    assert watch.spent == pytest.approx(2.0)


def attempt(key: str, state: str, seconds: float) -> RunFacts:
    usage = Usage(core_hours=seconds / 3600)
    return RunFacts(recipe="tiny", key=key, state=state, when=datetime.now(UTC), usage=usage)


def test_attempts_count_until_one_comes_to_an_end():
    earlier = [
        attempt("a", "over budget", 5.0),
        attempt("a", "published", 1.0),
        attempt("a", "failed", 2.0),
        attempt("b", "failed", 100.0),
        attempt("a", "stopped", 3.0),
    ]
    assert spent_before(earlier, "a", PRICES) == pytest.approx(5.0)


def test_a_budget_needs_prices():
    check_budget(Compute(), None)
    check_budget(Compute(budget=1.0), PRICES)
    with pytest.raises(RecipeError, match=r"compute\.budget: 1 is asked for, but there are no prices; name a file by"):
        check_budget(Compute(budget=1.0), None)


@pytest.mark.parametrize(
    ("prices", "gpu", "says"),
    [
        ({}, False, "the prices lack cpu_core_hour, .* 0 for what costs nothing"),
        ({"gpu_hour": {"H100": 2}}, False, "the prices lack cpu_core_hour, "),
        ({"cpu_core_hour": 1}, True, "the prices lack gpu_hour of 'H100', "),
        ({"gpu_hour": {"T4": 2}}, True, "the prices lack cpu_core_hour and gpu_hour of 'H100', "),
        ({"cpu_core_hour": 0}, False, "costs anything; give cpu_core_hour a price above 0"),
        ({"cpu_core_hour": 0, "gpu_hour": {"H100": 0, "T4": 1}}, True, "cpu_core_hour or gpu_hour of 'H100' a price"),
    ],
)
def test_a_budget_that_nothing_exhausts_is_refused(prices, gpu, says, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(budgets, "card_name", lambda _: "H100")
    with pytest.raises(RecipeError, match=says) as caught:
        check_budget(Compute(budget=1.0, use_gpu=gpu), Prices(currency="EUR", **prices))
    assert "\n" not in str(caught.value)


def test_what_costs_nothing_may_be_said(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(budgets, "card_name", lambda _: "")
    check_budget(Compute(budget=1.0, use_gpu=True), Prices(currency="EUR", cpu_core_hour=0, gpu_hour={UNNAMED: 1}))
