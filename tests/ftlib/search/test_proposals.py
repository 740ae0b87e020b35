"""What is tried next, against a study of optuna's own that asks and tells as it goes."""

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftlib.evaluation.measured import Estimate
from ftlib.search.proposals import as_told, propose, told_before, trials_of
from ftlib.search.search import Search
from ftlib.search.space import Choice, Integer, LogUniform, Point, Uniform
from ftlib.search.trial import Look, Outcome, Trial

SPACE = {
    "rate": LogUniform(low=1e-5, high=1e-1),
    "decay": Uniform(low=0.0, high=1.0),
    "rank": Integer(low=2, high=16, step=2),
    "kind": Choice(values=("a", {"kind": "b"})),
}
SEARCH = Search(space=SPACE, seed=5)


def trial(number: int, points: dict[str, Point], value: float | None, losses: tuple[float, ...] = ()) -> Trial:
    state = "done" if value is not None else "stopped" if losses else "diverged"
    estimate = None if value is None else Estimate(value=value, low=value - 0.1, high=value + 0.1)
    looks = tuple(Look(share=0.2 * 3**i, step=i, loss=loss) for i, loss in enumerate(losses))
    values = {path: SPACE[path].value(point) for path, point in points.items()}
    return Trial(number=number, points=points, values=values, outcome=Outcome(state=state, value=estimate, looks=looks))


def came_to(points: dict[str, Point]) -> float:
    """A metric with its best at rate 1e-3 and kind b."""
    return -abs(np.log10(points["rate"]) + 3) - 0.3 * (points["kind"] == 0) - 0.01 * float(points["rank"])


def searched(search: Search, count: int, *, maximize: bool = True) -> list[Trial]:
    told: list[Trial] = []
    for number in range(count):
        points = propose(search, number, told, maximize=maximize)
        sign = 1.0 if maximize else -1.0
        told.append(trial(number, points, sign * came_to(points)))
    return told


def test_the_same_seed_and_the_same_results_propose_the_same_and_another_seed_does_not() -> None:
    first, again = searched(SEARCH, 14), searched(SEARCH, 14)
    assert first == again
    other = searched(SEARCH.model_copy(update={"seed": 6}), 3)
    assert [one.points for one in other] != [one.points for one in first[:3]]
    better = [*first[:12], trial(12, first[12].points, 50.0)]
    assert propose(SEARCH, 13, first[:13], maximize=True) != propose(SEARCH, 13, better, maximize=True)


def test_proposals_are_those_of_optunas_sampler_that_saw_the_same_trials() -> None:
    told = searched(SEARCH, 12)
    seed = int(np.random.SeedSequence([5, 12]).generate_state(1)[0])
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
    distributions = {
        "rate": optuna.distributions.FloatDistribution(1e-5, 1e-1, log=True),
        "decay": optuna.distributions.FloatDistribution(0.0, 1.0),
        "rank": optuna.distributions.IntDistribution(2, 16, step=2),
        "kind": optuna.distributions.CategoricalDistribution([0, 1]),
    }
    for one in told:
        study.enqueue_trial(dict(one.points))
        asked = study.ask(distributions)
        assert asked.params == one.points
        study.tell(asked, one.measured)
    theirs = study.ask(distributions).params
    ours = propose(SEARCH, 12, told, maximize=True)
    assert ours["rate"] == pytest.approx(theirs["rate"], rel=1e-3)
    assert ours["decay"] == pytest.approx(theirs["decay"], rel=1e-3)
    assert (ours["rank"], ours["kind"]) == (theirs["rank"], theirs["kind"])


@pytest.mark.parametrize("maximize", [True, False])
def test_behind_the_first_ten_trials_are_better_than_chance(maximize: bool) -> None:
    """Over seeds: one search may have bad luck."""
    mean = {
        sampler: np.mean(
            [
                came_to(one.points)
                for seed in range(3)
                for one in searched(Search(space=SPACE, seed=seed, sampler=sampler), 22, maximize=maximize)[10:]
            ]
        )
        for sampler in ("tpe", "random")
    }
    assert mean["tpe"] > mean["random"] + 0.2


def test_what_broke_is_told_as_the_worst_and_what_was_stopped_by_its_last_loss() -> None:
    points = propose(SEARCH, 0, (), maximize=True)
    broke = as_told(SEARCH, trial(0, points, None), maximize=True)
    stopped = as_told(SEARCH, trial(1, points, None, (1.5, 0.5)), maximize=True)
    assert (broke.state, broke.intermediate_values) == (optuna.trial.TrialState.PRUNED, {})
    assert stopped.intermediate_values == {0: -1.5, 1: -0.5}  # higher is better, as of the metric
    assert as_told(SEARCH, trial(1, points, None, (1.5,)), maximize=False).intermediate_values == {0: 1.5}


def test_the_recipes_own_values_come_first_and_a_grid_has_every_combination_once() -> None:
    own = {"rate": 2e-5, "decay": 0.5, "rank": 4, "kind": 1}
    assert propose(SEARCH, 0, (), own=own, maximize=True) == own
    grid = Search(space={"n": Integer(low=1, high=3), "k": Choice(values=("a", "b"))}, sampler="grid", trials=100)
    assert trials_of(grid) == 6
    points = [tuple(propose(grid, number, (), maximize=True).values()) for number in range(6)]
    assert points == [(n, k) for n in (1, 2, 3) for k in (0, 1)]


@given(at_once=st.integers(1, 5), number=st.integers(0, 20))
@settings(max_examples=30)
def test_who_proposes_a_trial_knows_all_but_those_beside_it(at_once: int, number: int) -> None:
    known = told_before(number, Search(at_once=at_once))
    assert number - known == min(number, at_once - 1)


def test_those_that_go_on_are_kept_away_from() -> None:
    told = searched(SEARCH, 12)
    alone = propose(SEARCH, 15, told, maximize=True)
    beside = propose(SEARCH, 15, told, [alone] * 3, maximize=True)
    assert beside != alone
