"""A budget that a run stops before: looked at before each stage, and at every sign of life while one goes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic

from ftlib.costs.prices import Prices, Usage, money
from ftlib.errors import OverBudget, RecipeError
from ftlib.tracking.run_facts import RunFacts

UNFINISHED = ("failed", "stopped", "over budget")


def spent_before(earlier: Sequence[RunFacts], key: str, prices: Prices) -> float:
    """Return what the attempts of a run cost that led to no end, since one last did.

    Attempts ask for the same (`RunFacts.key`). What they made is not made again, so nothing is counted twice. They are
    reckoned by today's prices. `earlier` are the recipe's runs in their order.
    """
    spent = 0.0
    for facts in earlier:
        if facts.key == key:
            spent = spent + prices.of(facts.usage).total if facts.state in UNFINISHED else 0.0
    return spent


@dataclass
class Budget:
    """What may be spent, and what is."""

    limit: float
    prices: Prices
    spent: float
    """By earlier attempts and by the stages that are over."""
    rate: Callable[[str], Usage]
    """What a stage of this label uses in an hour."""
    clock: Callable[[], float] = monotonic
    stage: str = ""
    began: float = 0.0
    over: str = ""
    """Why it was stopped, once it is."""

    def begin(self, stage: str, predicted_seconds: float) -> None:
        """Begin a stage. Raises OverBudget where the limit is passed, or would be by what is predicted for it."""
        expected = self._cost(stage, predicted_seconds)
        if self.spent >= self.limit or self.spent + expected > self.limit:
            self.over = self._words(stage, f"would cost about {money(expected)} {self.prices.currency} more")
            raise OverBudget(self.over)
        self.stage, self.began = stage, self.clock()

    def look(self) -> None:
        """Hear a sign of life. Raises OverBudget, again and again, once the limit is reached."""
        if not self.stage:
            return
        now = self.spent + self._cost(self.stage, self.clock() - self.began)
        if now >= self.limit:
            self.over = self.over or self._words(self.stage, "was going on", now)
            raise OverBudget(self.over)

    def end(self) -> None:
        """End the stage: what it cost is spent."""
        if self.stage:
            self.spent += self._cost(self.stage, self.clock() - self.began)
        self.stage = ""

    def _cost(self, stage: str, seconds: float) -> float:
        return self.prices.of(self.rate(stage)).total * seconds / 3600.0

    def _words(self, stage: str, what: str, spent: float | None = None) -> str:
        sum_ = money(self.spent if spent is None else spent)
        return (
            f"budget: {sum_} of {self.limit:g} {self.prices.currency} are spent, and {stage} {what}; raise "
            "compute.budget and run again: it goes on from what is made"
        )


def check_budget(limit: float | None, prices: Prices | None) -> None:
    """Refuse a budget that nothing can be reckoned for. Raises RecipeError."""
    if limit is None or (prices and (prices.cpu_core_hour or any(prices.gpu_hour.values()))):
        return
    what = "there are no prices" if prices is None else "the prices have neither cpu_core_hour nor gpu_hour"
    raise RecipeError(
        f"compute.budget: {limit:g} is asked for, but {what}; name a file by REGLAGE_PRICES, or remove it"
    )
