"""A budget that a run stops before: looked at before each stage, and at every sign of life while one goes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic

from ftlib.costs.prices import VARIABLE, Prices, Usage, money
from ftlib.costs.used import UNNAMED, card_name
from ftlib.errors import OverBudget, RecipeError
from ftlib.tracking.run_facts import RunFacts
from ftlib.training.compute import Compute

UNFINISHED = ("failed", "stopped", "over budget")


def spent_before(earlier: Sequence[RunFacts], key: str, prices: Prices) -> float:
    """Return what the attempts of a run cost that led to no end, since one last did.

    Attempts ask for the same (`RunFacts.key`). What they made is not made again, so nothing is counted twice. They are
    reckoned by today's prices. `earlier` are the recipe's runs in their order; one that crashed is not among them.
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


def check_budget(compute: Compute, prices: Prices | None) -> None:
    """Refuse a budget that what a recipe uses here cannot exhaust. Raises RecipeError."""
    if compute.budget is None:
        return
    asked, remedy = f"compute.budget: {compute.budget:g} is asked for", f"that {VARIABLE} names, or remove the budget"
    if prices is None:
        raise RecipeError(f"{asked}, but there are no prices; name a file by {VARIABLE}, or remove the budget")
    name = card_name(compute) or UNNAMED
    missing = [] if prices.cpu_core_hour is not None else ["cpu_core_hour"]
    missing += [f"gpu_hour of {name!r}"] if compute.use_gpu and name not in prices.gpu_hour else []
    if missing:
        raise RecipeError(
            f"{asked}, but the prices lack {' and '.join(missing)}, so what is used of them would count nothing; add "
            f"them, with 0 for what costs nothing, to the file {remedy}"
        )
    if not prices.cpu_core_hour and not (compute.use_gpu and prices.gpu_hour[name]):
        raise RecipeError(
            f"{asked}, but by the prices nothing that the recipe uses costs anything; give cpu_core_hour"
            f"{f' or gpu_hour of {name!r}' if compute.use_gpu else ''} a price above 0 in the file {remedy}"
        )
