"""Every metric of scored rows equals scikit-learn's or scipy's, over all rows and on every resample."""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from ftlib.evaluation.metrics import R2, MeanAbsoluteError, MeanSquaredError, Metric, Pearson, Spearman
from ftlib.kinds.outcomes import ScoreOutcomes

METRICS: tuple[Metric, ...] = (MeanSquaredError(), MeanAbsoluteError(), R2(), Pearson(), Spearman())


def answers(gold: np.ndarray, predicted: np.ndarray) -> ScoreOutcomes:
    return ScoreOutcomes(
        row_ids=tuple(map(str, range(len(gold)))),
        nll=0.5 * ((gold - predicted) ** 2 + np.log(2 * np.pi)),
        targets=np.ones(len(gold), int),
        gold=gold,
        predicted=predicted,
    )


def random_answers(rows: int, seed: int) -> ScoreOutcomes:
    """Return scores on a coarse scale, so that there are ties, far from zero, so that sums of squares would cancel."""
    random = np.random.default_rng(seed)
    gold = np.round(random.normal(1000, random.choice([0.0, 0.3, 2.0]), rows), random.integers(0, 3))
    return answers(gold, gold + random.normal(0, 1, rows))


def reference(metric: Metric, o: ScoreOutcomes) -> float:
    constant = len(set(o.gold)) == 1
    match metric:
        case MeanSquaredError():
            return float(sklearn.metrics.mean_squared_error(o.gold, o.predicted))
        case MeanAbsoluteError():
            return float(sklearn.metrics.mean_absolute_error(o.gold, o.predicted))
        case R2():  # of equal scores scikit-learn says 0 or 1, unless their mean is rounded: then -1e25
            return math.nan if constant else float(sklearn.metrics.r2_score(o.gold, o.predicted))
        case Pearson():
            return math.nan if constant or len(set(o.predicted)) == 1 else scipy.stats.pearsonr(o.gold, o.predicted)[0]
        case Spearman():
            return math.nan if constant or len(set(o.predicted)) == 1 else scipy.stats.spearmanr(o.gold, o.predicted)[0]
    raise AssertionError(f"no reference for {metric.kind}")


@settings(max_examples=60)
@given(rows=st.integers(1, 40), seed=st.integers(0, 1000), which=st.sampled_from(METRICS))
def test_a_metric_and_its_resamples_equal_the_reference(rows: int, seed: int, which: Metric) -> None:
    outcomes = random_answers(rows, seed)
    assert which.compute(outcomes) == pytest.approx(reference(which, outcomes), rel=1e-6, abs=1e-9, nan_ok=True)
    draws = np.random.default_rng(seed).integers(0, rows, (5, rows))
    expected = [reference(which, outcomes.take(draw)) for draw in draws]
    assert which.resampled(outcomes, draws) == pytest.approx(expected, rel=1e-6, abs=1e-9, nan_ok=True)


def test_every_metric_of_scored_rows_is_held_against_a_reference() -> None:
    reads = {kind for kind in get_args(get_args(Metric)[0]) if "scored" in kind.reads}
    assert reads == {type(metric) for metric in METRICS}


def test_scores_that_are_all_the_same_define_neither_r2_nor_a_correlation() -> None:
    """0.1 three times: their mean is not 0.1, and what is left must not be taken for variance."""
    same = np.full(3, 0.1)
    assert same.mean() != 0.1
    off = answers(same, np.array([0.1, 0.2, 0.3]))
    for metric in (R2(), Pearson(), Spearman()):
        assert math.isnan(metric.compute(off))
        assert math.isnan(metric.compute(answers(same, same)))


def test_the_direction_of_each_metric_is_right() -> None:
    wrong = random_answers(50, 3)
    right = answers(wrong.gold, wrong.gold + 0.01 * (wrong.predicted - wrong.gold))
    for metric in METRICS:
        assert (metric.compute(right) > metric.compute(wrong)) == metric.higher_is_better, metric.name
