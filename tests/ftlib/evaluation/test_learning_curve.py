"""A learning curve: outcomes drawn from a power law that is known, and curves that say nothing."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import curve_fit
from scipy.stats import norm

from ftlib.evaluation.bootstrap import Resampling
from ftlib.evaluation.learning_curve import Extrapolation, LearningCurve, extrapolate, of_share

SIZES = (250, 500, 1000)


def simulated(random: np.random.Generator, law: tuple[float, float, float], rows: int = 400) -> Extrapolation:
    """Draw which of the same test rows are right at each size, as hard rows are hard for all: correlated by 0.7."""
    a, b, c = law
    hard = random.standard_normal(rows)
    ease = [norm.cdf(0.7**0.5 * hard + 0.3**0.5 * random.standard_normal(rows)) for _ in SIZES]
    right = [(of_row >= a + b * size**-c).astype(float) for size, of_row in zip(SIZES, ease, strict=True)]
    resampling = Resampling(200, 0.95, int(random.integers(1 << 30)))
    rows_drawn = np.concatenate([*resampling.draws(rows)])
    drawn = [[of_size[rows_drawn].mean(axis=1)] for of_size in right]
    values = [[float(of_size.mean())] for of_size in right]
    return extrapolate(SIZES, values, drawn, resampling, higher_is_better=True, best=1.0)


@pytest.mark.parametrize("law", [(0.1, 2.0, 0.35), (0.05, 8.0, 0.5), (0.0, 1.2, 0.2)])
def test_the_interval_covers_what_twice_the_rows_give(law: tuple[float, float, float]) -> None:
    random = np.random.default_rng(7)
    gain = law[1] * (SIZES[-1] ** -law[2] - (2 * SIZES[-1]) ** -law[2])
    truth = 1.0 - law[0] - law[1] * (2 * SIZES[-1]) ** -law[2]
    covered: list[tuple[bool, bool]] = []
    for _ in range(60):
        curve = simulated(random, law)
        between = [estimate.numbers() for estimate in (curve.gain, curve.doubled)]
        covered.append(tuple(three[0] <= true <= three[2] for three, true in zip(between, (gain, truth), strict=True)))
    assert 0.8 <= np.mean([one for one, _ in covered]) <= 1.0, "the gain; nominal is 0.95"
    assert 0.85 <= np.mean([one for _, one in covered]) <= 1.0, "the value"


def test_the_law_is_scipys_where_there_is_no_noise() -> None:
    sizes = (100, 200, 400, 800)
    losses = [0.3 + 4.0 * size**-0.6 for size in sizes]
    drawn = [[np.full(100, loss)] for loss in losses]
    curve = extrapolate(sizes, [[loss] for loss in losses], drawn, Resampling(100, 0.95, 0), higher_is_better=False)
    (a, b, c), _ = curve_fit(lambda n, a, b, c: a + b * n**-c, sizes, losses, p0=(0.1, 1.0, 0.5), maxfev=10_000)
    assert curve.law[2] == pytest.approx(c, abs=0.03)
    assert curve.doubled.value == pytest.approx(a + b * 1600.0**-c, abs=2e-3)
    assert curve.gain.value == pytest.approx(b * (1600.0**-c - 800.0**-c), abs=2e-3)


def test_more_noise_from_seeds_is_a_wider_interval() -> None:
    random = np.random.default_rng(0)
    resampling, values = Resampling(400, 0.95, 0), (0.60, 0.66, 0.70)
    alone = [[value + 0.004 * random.standard_normal(400)] for value in values]
    apart = [[one[0] + shift for shift in (-0.02, 0.0, 0.02)] for one in alone]
    narrow = extrapolate(SIZES, [[v] for v in values], alone, resampling, higher_is_better=True)
    wide = extrapolate(SIZES, [[v - 0.02, v, v + 0.02] for v in values], apart, resampling, higher_is_better=True)
    widths = [three[2] - three[0] for curve in (narrow, wide) if (three := curve.values[1].numbers())]
    # Three seeds at -1, 0 and 1 deviate by 1: the mean of three by 1 / sqrt(3), 0.0115 each, 2 * 1.96 of them across.
    assert widths[1] == pytest.approx(2 * 1.96 * (0.02**2 / 3 + 0.004**2) ** 0.5, rel=0.2)
    assert widths[0] == pytest.approx(2 * 1.96 * 0.004, rel=0.2)


@pytest.mark.parametrize(
    ("values", "spread", "why"),
    [
        ((0.70, 0.68, 0.74), 0.002, "did not improve from each number of rows"),
        ((0.70, 0.702, 0.704), 0.02, "holds no change"),
        ((float("nan"), 0.7, 0.8), 0.002, "undefined"),
    ],
)
def test_a_curve_that_says_nothing_says_so(values: tuple[float, ...], spread: float, why: str) -> None:
    random = np.random.default_rng(1)
    drawn = [[value + spread * random.standard_normal(300)] for value in values]
    curve = extrapolate(SIZES, [[v] for v in values], drawn, Resampling(300, 0.95, 0), higher_is_better=True)
    assert why in curve.unsure


def test_shares_of_so_few_rows_that_they_are_as_many_say_nothing() -> None:
    values = (0.5, 0.6, 0.7)
    drawn = [[np.full(100, value)] for value in values]
    curve = extrapolate((5, 5, 8), [[v] for v in values], drawn, Resampling(100, 0.95, 0), higher_is_better=True)
    assert "have 5, 8 rows" in curve.unsure
    assert [value.value for value in curve.values] == [0.5, 0.6, 0.7]
    assert curve.doubled.numbers() is None


def test_no_share_of_right_answers_is_above_one() -> None:
    values = (0.90, 0.96, 0.999)
    drawn = [[np.full(100, value)] for value in values]
    curve = extrapolate(SIZES, [[v] for v in values], drawn, Resampling(100, 0.95, 0), higher_is_better=True, best=1.0)
    assert max(curve.doubled.numbers() or ()) <= 1.0


@pytest.mark.parametrize("shares", [(0.5,), (0.5, 0.5), (0.0, 0.5), (0.5, 1.0)])
def test_shares_that_draw_no_curve(shares: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="shares"):
        LearningCurve(shares=shares)


def test_the_trainings_of_a_curve() -> None:
    curve = LearningCurve(shares=(0.5, 0.25), seeds=(3,))
    assert curve.trainings() == [(0.25, None), (0.5, None), (0.25, 3), (0.5, 3), (1.0, 3)]
    assert [of_share("tune", share) for share in (0.25, 0.125)] == ["tune-25-percent", "tune-12-5-percent"]
