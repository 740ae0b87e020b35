"""Which values to try next: a pure function of the search, the trial's number, and the trials that are told.

There is no database: each proposal asks a fresh optuna study that is told the finished trials in their order, and whose
sampler is seeded by the search's seed and the trial's number. So a search that was killed proposes what it would have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from math import prod
from typing import TYPE_CHECKING, cast

from ftlib.errors import RecipeError
from ftlib.search.search import Search
from ftlib.search.space import Point
from ftlib.search.trial import Trial

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

EXTRA = "search"


def check_sampler(search: Search) -> None:
    """Raise RecipeError where the sampler's package is absent."""
    if search.sampler != "grid" and find_spec("optuna") is None:
        raise RecipeError(
            f"search.sampler: {search.sampler!r} needs the package 'optuna', which is not installed; pip install "
            f"'reglage[{EXTRA}]'"
        )


def told_before(number: int, search: Search) -> int:
    """Return how many trials, the first so many, are known to whoever proposes one; the rest may go on."""
    return max(0, number - search.at_once + 1)


def trials_of(search: Search) -> int:
    """Return how many trials there will be: of a grid no more than it has points."""
    if search.sampler != "grid":
        return search.trials
    return min(search.trials, prod(len(one.every() or ()) for one in search.space.values()))


def propose(
    search: Search,
    number: int,
    told: Sequence[Trial],
    running: Sequence[Mapping[str, Point]] = (),
    own: Mapping[str, Point] | None = None,
    *,
    maximize: bool,
) -> dict[str, Point]:
    """Return the points of a trial.

    Args:
        search: What is searched.
        number: The trial's, from 0 on.
        told: The trials that are over, in their order.
        running: The points of those that go on; a sampler keeps away from them.
        own: The recipe's own values as points, which are tried first; None where they lie outside.
        maximize: Whether the metric is better the higher it is.
    """
    if search.sampler == "grid":
        return _of_grid(search, number)
    if number == 0 and own is not None:
        return dict(own)
    study = _study(search, number, told, running, maximize=maximize)
    asked = study.ask({path: domain.distribution() for path, domain in search.space.items()})
    return {path: search.space[path].rounded(cast("Point", point)) for path, point in asked.params.items()}


def _of_grid(search: Search, number: int) -> dict[str, Point]:
    points: dict[str, Point] = {}
    for path, domain in reversed(search.space.items()):  # the last field's values change fastest
        every = domain.every() or ()
        number, place = divmod(number, len(every))
        points[path] = every[place]
    return {path: points[path] for path in search.space}


def _study(
    search: Search, number: int, told: Sequence[Trial], running: Sequence[Mapping[str, Point]], *, maximize: bool
) -> Study:
    """Return a study that was told the trials, with the sampler of this one."""
    import numpy as np
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    seed = int(np.random.SeedSequence([search.seed % 2**64, number]).generate_state(1)[0])
    samplers = optuna.samplers
    sampler = samplers.TPESampler(seed=seed) if search.sampler == "tpe" else samplers.RandomSampler(seed=seed)
    direction = "maximize" if maximize else "minimize"
    study = optuna.create_study(storage=None, sampler=sampler, direction=direction)
    for trial in told:
        study.add_trial(as_told(search, trial, maximize=maximize))
    spread = {path: domain.distribution() for path, domain in search.space.items()}
    for points in running:
        going = optuna.trial.create_trial(
            state=optuna.trial.TrialState.RUNNING, params=dict(points), distributions=spread
        )
        study.add_trial(going)
    return study


def as_told(search: Search, trial: Trial, *, maximize: bool) -> FrozenTrial:
    """Return a trial as optuna is told it.

    One that was stopped tells the loss at its last rung, and one that broke is worse than all: of trials that failed
    optuna would learn nothing, and go there again.
    """
    import optuna

    state, value, seen = optuna.trial.TrialState.PRUNED, None, dict[int, float]()
    if trial.outcome.state == "done":
        state, value = optuna.trial.TrialState.COMPLETE, trial.measured
    elif trial.outcome.state == "stopped":
        sign = -1.0 if maximize else 1.0
        seen = {rung: sign * look.loss for rung, look in enumerate(trial.outcome.looks)}
    return optuna.trial.create_trial(
        state=state,
        value=value,
        params=dict(trial.points),
        distributions={path: domain.distribution() for path, domain in search.space.items()},
        intermediate_values=seen,
    )
