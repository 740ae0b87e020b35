"""`reglage search --plan`: what a whole search would try, how much is over already, and what the rest will take."""

import os
from collections.abc import Iterator

from flows.planning.plan import RUN_SECONDS, make_plan
from flows.run.steps import inputs
from flows.searching.recipes import Searched, study_of
from ftlib.config import Config
from ftlib.costs.prices import Cost, Prices
from ftlib.costs.used import card_name, used
from ftlib.errors import RecipeError
from ftlib.recipe.recipe import Recipe
from ftlib.search.proposals import propose, told_before, trials_of
from ftlib.search.space import Point
from ftlib.search.study import Study
from ftlib.wording import counted


class SearchPlan(Config):
    """What a search would do."""

    name: str
    metric: str
    space: dict[str, str]
    """By field, what is tried, in words."""
    trials: int
    over: int
    """Trials that are over."""
    trial_seconds: float | None = None
    """Predicted for the next trial, less what is done for it; None until the data is prepared."""
    measured_seconds: float | None = None
    """What the stages of the trials that were measured took, on average."""
    seconds: float | None = None
    """For all trials that are not over, one after the other: by those that were measured, or else by the next one."""
    speed: str = ""
    """What the prediction rests on."""
    cost: Cost | None = None
    """Of those seconds, each reckoned as a training's; None without prices, or while they are not known."""

    def lines(self) -> Iterator[str]:
        """Yield what a terminal shows."""
        yield f"{self.name}: {counted(self.trials, 'trial')} by {self.metric}, {self.over or 'none'} of them over"
        yield from (f"  {path}: {words}" for path, words in self.space.items())
        left = self.trials - self.over
        if self.seconds is None:
            yield "time is known once the data is prepared: reglage plan RECIPE --prepare"
        elif self.measured_seconds is not None:
            took = f"those that were measured took {self.measured_seconds:.0f} s each in their stages"
            yield f"about {self.seconds:.0f} s for {counted(left, 'trial')} more, one after the other; {took}"
        else:
            each = f"{self.trial_seconds:.0f} s a trial"
            yield f"at most about {self.seconds:.0f} s, {each}, one after the other; speed from {self.speed}"
        if self.cost:
            yield f"about {self.cost.line()}; storage, requests and waiting are not in it"


def plan_search(asked: Searched, place: str, prices: Prices | None = None) -> SearchPlan:
    """Plan a search, and what it costs by prices. Raises what `make_plan` raises."""
    plan = _timed(asked, place)
    if prices is None or plan.seconds is None:
        return plan
    compute = asked.recipe.compute
    usage = used([("train", plan.seconds)], compute, os.cpu_count() or 1, card_name(compute))
    return plan.model_copy(update={"cost": prices.of(usage)})


def _timed(asked: Searched, place: str) -> SearchPlan:
    """Say how many trials are over, and how long the rest takes where some have been seen."""
    work, search = asked.recipe.work_place(place), asked.search
    study = Study(work, asked.recipe.name, study_of(asked, inputs(asked.recipe, work)), search)
    count = trials_of(search)
    over = [trial for number, trial in study.trials.items() if number < count]
    space = {path: domain.words() for path, domain in search.space.items()}
    plan = SearchPlan(name=asked.recipe.name, metric=asked.metric, space=space, trials=count, over=len(over))
    took = [
        trial.outcome.work_seconds for trial in over if trial.outcome.state == "done" and trial.outcome.work_seconds
    ]
    if took:
        each = sum(took) / len(took)
        return plan.model_copy(
            update={"measured_seconds": round(each, 1), "seconds": round(each * (count - len(over)))}
        )
    of_one = make_plan(_next(asked, study, count), work)
    if of_one.seconds is None:
        return plan
    each = max(0.0, of_one.seconds - RUN_SECONDS)
    known = {"trial_seconds": round(each, 1), "seconds": round(each * (count - len(over)) + RUN_SECONDS)}
    return plan.model_copy(update={**known, "speed": of_one.speed})


def _next(asked: Searched, study: Study, count: int) -> Recipe:
    """Return the recipe of the first trial that is not over; the recipe as it is where that is not known."""
    number = next((number for number in range(count) if number not in study.trials), None)
    if number is None or told_before(number, asked.search) < number:  # some that it would know of have no values yet
        return asked.recipe
    points: dict[str, Point] = propose(
        asked.search, number, study.first(number), (), asked.own, maximize=asked.maximize
    )
    try:
        return asked.of({path: asked.search.space[path].value(point) for path, point in points.items()})
    except RecipeError:
        return asked.recipe
