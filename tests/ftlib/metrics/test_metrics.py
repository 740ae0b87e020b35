"""Every metric equals scikit-learn's (or plain numpy), over all rows and on every resample."""

from __future__ import annotations

import math

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from ftlib.metrics import Accuracy, LogLoss, MacroF1, Metric, Perplexity
from ftlib.outcomes import Outcomes

METRICS: tuple[Metric, ...] = (Accuracy(), LogLoss(), MacroF1(), Perplexity())


def labeled(rows: int, labels: int, seed: int) -> Outcomes:
    """Return random answers in which some labels may neither occur nor be predicted."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 2, (rows, labels))
    logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
    gold = random.integers(0, labels, rows)
    return Outcomes(
        row_ids=tuple(map(str, range(rows))),
        nll=-logits[np.arange(rows), gold],
        targets=np.ones(rows, np.int64),
        labels=tuple(f"label {i}" for i in range(labels)),
        gold=gold,
        predicted=logits.argmax(axis=1),
        probabilities=np.exp(logits),
    )


def tokens(rows: int, seed: int) -> Outcomes:
    random = np.random.default_rng(seed)
    targets = random.integers(1, 30, rows)
    nothing = np.zeros(0, np.int64)
    return Outcomes(
        tuple(map(str, range(rows))),
        targets * random.gamma(2, 1, rows),
        targets,
        (),
        nothing,
        nothing,
        np.zeros((0, 0)),
    )


def reference(metric: Metric, outcomes: Outcomes) -> float:
    match metric:
        case Accuracy():
            return float(sklearn.metrics.accuracy_score(outcomes.gold, outcomes.predicted))
        case LogLoss():
            every = list(range(len(outcomes.labels)))
            return float(sklearn.metrics.log_loss(outcomes.gold, outcomes.probabilities, labels=every))
        case MacroF1():
            report = sklearn.metrics.classification_report(
                outcomes.gold, outcomes.predicted, output_dict=True, zero_division=0.0
            )
            return float(np.mean([report[str(label)]["f1-score"] for label in np.unique(outcomes.gold)]))
        case Perplexity():
            return math.exp(math.fsum(outcomes.nll) / int(outcomes.targets.sum()))


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(1, 60), labels=st.integers(2, 8), seed=st.integers(0, 1000), which=st.sampled_from(METRICS))
def test_a_metric_and_its_resamples_equal_the_reference(rows: int, labels: int, seed: int, which: Metric) -> None:
    outcomes = labeled(rows, labels, seed) if which.needs == "labeled" else tokens(rows, seed)
    assert which.compute(outcomes) == pytest.approx(reference(which, outcomes), abs=1e-12)
    draws = np.random.default_rng(seed).integers(0, rows, (5, rows))
    expected = [reference(which, outcomes.take(draw)) for draw in draws]
    assert which.resampled(outcomes, draws) == pytest.approx(expected, abs=1e-12)


def test_a_label_that_is_never_predicted_counts_zero_and_one_that_never_occurs_does_not_count() -> None:
    gold, predicted = np.array([0, 0, 1, 1]), np.array([0, 0, 0, 2])
    outcomes = labeled(4, 3, 0)
    outcomes = Outcomes(
        outcomes.row_ids, outcomes.nll, outcomes.targets, outcomes.labels, gold, predicted, outcomes.probabilities
    )
    assert MacroF1().compute(outcomes) == pytest.approx((0.8 + 0.0) / 2)


def test_log_loss_sees_a_confident_error_whole() -> None:
    outcomes = labeled(1, 2, 0)
    sure = Outcomes(
        outcomes.row_ids,
        np.array([100.0]),
        outcomes.targets,
        outcomes.labels,
        np.array([0]),
        np.array([1]),
        np.array([[0.0, 1.0]], np.float32),
    )
    assert LogLoss().compute(sure) == 100.0
    assert sklearn.metrics.log_loss([0], sure.probabilities, labels=[0, 1]) < 17  # the trap: clipped


def test_the_direction_of_each_metric_is_right() -> None:
    right, wrong = labeled(30, 3, 0), labeled(30, 3, 0)
    right = Outcomes(
        right.row_ids, right.nll * 0.1, right.targets, right.labels, right.gold, right.gold, right.probabilities
    )
    for metric in (Accuracy(), LogLoss(), MacroF1()):
        assert (metric.compute(right) > metric.compute(wrong)) == metric.higher_is_better
