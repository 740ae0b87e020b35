"""The bounds hold at every look: against exact sums, numerical integrals, and simulated logs without a change."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import binom, binomtest

from ftlib.retraining.live_bounds import level_of, log_evidence, lower_bound, measured_at_least, upper_bound


@pytest.mark.parametrize(("right", "rows", "least"), [(3, 10, 0.6), (0, 5, 0.5), (9, 10, 0.7), (40, 80, 0.8)])
def test_the_evidence_is_the_mixture_of_likelihood_ratios(right: int, rows: int, least: float) -> None:
    def prior(share: float) -> float:
        return 1.0 / math.sqrt(share * (1.0 - share))

    def ratio(share: float) -> float:
        return (share / least) ** right * ((1.0 - share) / (1.0 - least)) ** (rows - right)

    above, below = (quad(f, 0.0, least, limit=200)[0] for f in (lambda q: prior(q) * ratio(q), prior))
    assert log_evidence(right, rows, least) == pytest.approx(math.log(above / below), rel=1e-5)


@pytest.mark.parametrize("rows", [1, 7, 200])
@pytest.mark.parametrize(("least", "truth"), [(0.8, 0.8), (0.8, 0.9), (0.3, 0.3), (0.99, 1.0)])
def test_the_evidence_is_worth_one_on_the_border_and_less_above_it(rows: int, least: float, truth: float) -> None:
    counts = range(rows + 1)
    logs = [float(binom.logpmf(k, rows, truth)) + log_evidence(k, rows, least) for k in counts]
    expected = sum(math.exp(one) for one in logs)
    assert expected <= 1.0 + 1e-9
    if truth == least:
        assert expected == pytest.approx(1.0, rel=1e-9)


@pytest.mark.parametrize(("right", "rows"), [(0, 1), (0, 40), (40, 40), (90, 100), (123_456, 150_000)])
def test_bounds_lie_around_the_share_and_outside_of_a_single_look_s_interval(right: int, rows: int) -> None:
    low, high = lower_bound(right, rows, 0.01), upper_bound(right, rows, 0.01)
    assert 0.0 <= low <= right / rows <= high <= 1.0
    once = binomtest(right, rows).proportion_ci(0.98, "exact")
    assert low <= once.low + 1e-12
    assert high >= once.high - 1e-12
    assert upper_bound(right, rows, 0.001) >= high
    assert lower_bound(rows - right, rows, 0.01) == pytest.approx(1.0 - high, abs=1e-12)


def test_nothing_is_known_of_no_rows() -> None:
    assert (lower_bound(0, 0, 0.01), upper_bound(0, 0, 0.01)) == (0.0, 1.0)


def test_the_published_bound_is_clopper_and_pearson_s() -> None:
    for right, rows in ((0, 10), (10, 10), (450, 500)):
        exact = binomtest(right, rows).proportion_ci(1 - 2 * 0.005, "exact").low
        assert measured_at_least(right, rows, 0.005) == pytest.approx(exact, abs=1e-9)


def test_the_levels_of_all_windows_add_up_to_the_whole() -> None:
    total = sum(level_of(window, 0.01) for window in range(1, 200_000))
    assert total == pytest.approx(0.01, rel=1e-4)
    assert total < 0.01


def alarms(truth: float, least: float, level: float, runs: int, rows: int, every: int) -> float:
    """Return how many of some logs raise an alarm at any of many looks."""
    answers = np.random.default_rng(3).random((runs, rows)) < truth
    looks = range(every, rows + 1, every)
    right = answers.cumsum(axis=1)[:, every - 1 :: every]
    enough = math.log(1.0 / level)

    @cache
    def alarm(k: int, n: int) -> bool:
        return log_evidence(k, n, least) >= enough

    return float(np.mean([any(alarm(int(k), n) for k, n in zip(run, looks, strict=True)) for run in right]))


def test_a_version_that_is_just_good_enough_is_seldom_called_worse_however_often_one_looks() -> None:
    runs, level = 400, 0.05
    found = alarms(0.85, 0.85, level, runs, 3000, 30)
    assert binomtest(round(found * runs), runs, level, alternative="greater").pvalue > 1e-4
    fixed = np.random.default_rng(4).random((runs, 3000)) < 0.85  # what one interval at each look would have done
    shares = fixed.cumsum(axis=1)[:, 29::30] / np.arange(30, 3001, 30)
    often = (shares + 1.645 * np.sqrt(0.85 * 0.15 / np.arange(30, 3001, 30)) < 0.85).any(axis=1).mean()
    assert often > 4 * level > found


def test_a_version_that_is_worse_is_found() -> None:
    assert alarms(0.75, 0.85, 0.001, 100, 1000, 50) > 0.95
