"""Every metric of multi-label rows equals scikit-learn's, over all rows and on every resample."""

from __future__ import annotations

import math
import warnings
from typing import get_args

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.exceptions import UndefinedMetricWarning

from ftlib.errors import DataError
from ftlib.evaluation.metrics import (
    AUROC,
    F1,
    HammingLoss,
    LogLoss,
    MacroF1,
    MacroPrecision,
    MacroRecall,
    Metric,
    MicroF1,
    MicroPrecision,
    MicroRecall,
    Precision,
    RankingPrecision,
    Recall,
    SamplesF1,
    SubsetAccuracy,
    WeightedF1,
)
from ftlib.kinds.outcomes import MultiLabelOutcomes

ONE = "label 1"
AVERAGED = {
    MicroF1: ("f1_score", "micro"),
    MicroPrecision: ("precision_score", "micro"),
    MicroRecall: ("recall_score", "micro"),
    MacroF1: ("f1_score", "macro"),
    MacroPrecision: ("precision_score", "macro"),
    MacroRecall: ("recall_score", "macro"),
    WeightedF1: ("f1_score", "weighted"),
}
OF_LABEL = {Precision: "precision_score", Recall: "recall_score", F1: "f1_score"}
METRICS: tuple[Metric, ...] = (
    *(metric() for metric in AVERAGED),
    *(metric(label=ONE) for metric in OF_LABEL),
    SamplesF1(),
    SubsetAccuracy(),
    HammingLoss(),
    RankingPrecision(),
    AUROC(),
    LogLoss(),
)


def answers(rows: int, labels: int, seed: int) -> MultiLabelOutcomes:
    """Return random answers with ties, in which rows may have no label and labels no row."""
    random = np.random.default_rng(seed)
    gold = random.random((rows, labels)) < random.choice([0.0, 0.3, 0.6], labels)
    probabilities = np.round(random.beta(0.7, 0.7, (rows, labels)).clip(0.01, 0.99), random.integers(1, 4))
    right = np.where(gold, probabilities, 1 - probabilities).clip(1e-3, 1)
    return MultiLabelOutcomes(
        row_ids=tuple(map(str, range(rows))),
        nll=-np.log(right).sum(axis=1),
        targets=np.full(rows, labels),
        labels=tuple(f"label {i}" for i in range(labels)),
        gold=gold,
        probabilities=probabilities,
    )


def reference(metric: Metric, o: MultiLabelOutcomes) -> float:
    occurring = np.flatnonzero(o.gold.any(axis=0))
    predicted = o.probabilities >= 0.5
    if type(metric) in AVERAGED:
        function, average = AVERAGED[type(metric)]
        labels = None if average == "micro" else occurring
        if not len(occurring):
            return math.nan
        score = getattr(sklearn.metrics, function)
        nothing = math.nan if average == "micro" else 0.0  # of the mean, a label that is never predicted has its share
        return float(score(o.gold, predicted, labels=labels, average=average, zero_division=nothing))
    if type(metric) in OF_LABEL:
        if not o.gold[:, 1].any():
            return math.nan
        score = getattr(sklearn.metrics, OF_LABEL[type(metric)])
        return float(score(o.gold[:, 1], predicted[:, 1], zero_division=math.nan))
    match metric:
        case SamplesF1():
            return float(sklearn.metrics.f1_score(o.gold, predicted, average="samples", zero_division=1.0))
        case SubsetAccuracy():
            return float(sklearn.metrics.accuracy_score(o.gold, predicted))
        case HammingLoss():
            return float(sklearn.metrics.hamming_loss(o.gold, predicted))
        case RankingPrecision():
            return float(sklearn.metrics.label_ranking_average_precision_score(o.gold, o.probabilities))
        case AUROC():
            columns = [i for i in occurring if not o.gold[:, i].all()]
            areas = [sklearn.metrics.roc_auc_score(o.gold[:, i], o.probabilities[:, i]) for i in columns]
            return float(np.mean(areas)) if areas else math.nan
        case LogLoss():
            right = np.where(o.gold, o.probabilities, 1 - o.probabilities).clip(1e-3, 1)
            return float(-np.log(right).mean())
    raise AssertionError(f"no reference for {metric.kind}")


@settings(max_examples=60)
@given(rows=st.integers(1, 40), labels=st.integers(2, 6), seed=st.integers(0, 1000), which=st.sampled_from(METRICS))
def test_a_metric_and_its_resamples_equal_the_reference(rows: int, labels: int, seed: int, which: Metric) -> None:
    outcomes = answers(rows, labels, seed)
    draws = np.random.default_rng(seed).integers(0, rows, (5, rows))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UndefinedMetricWarning)  # the reference's, about what is 0 by our own rule
        assert which.compute(outcomes) == pytest.approx(reference(which, outcomes), abs=1e-12, nan_ok=True)
        expected = [reference(which, outcomes.take(draw)) for draw in draws]
    assert which.resampled(outcomes, draws) == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_every_metric_of_multi_label_rows_is_held_against_a_reference() -> None:
    reads = {kind for kind in get_args(get_args(Metric)[0]) if "multi_labeled" in kind.reads}
    assert reads == {type(metric) for metric in METRICS}


def test_the_direction_of_each_metric_is_right() -> None:
    wrong = next(o for seed in range(50) if (o := answers(60, 4, seed)).gold.any(axis=0).all())
    right = MultiLabelOutcomes(
        row_ids=wrong.row_ids,
        nll=wrong.nll * 0.01,
        targets=wrong.targets,
        labels=wrong.labels,
        gold=wrong.gold,
        probabilities=wrong.gold.astype(float),
    )
    for metric in METRICS:
        assert (metric.compute(right) > metric.compute(wrong)) == metric.higher_is_better, metric.name


def test_rows_without_labels_that_get_none_are_right() -> None:
    none = np.zeros((4, 3))
    outcomes = MultiLabelOutcomes(
        row_ids=tuple("abcd"),
        nll=np.ones(4),
        targets=np.full(4, 3),
        labels=("x", "y", "z"),
        gold=none.astype(bool),
        probabilities=none,
    )
    assert SubsetAccuracy().compute(outcomes) == SamplesF1().compute(outcomes) == RankingPrecision().compute(outcomes)
    assert SubsetAccuracy().compute(outcomes) == 1.0
    assert all(math.isnan(metric.compute(outcomes)) for metric in (MicroF1(), MacroF1(), F1(label="x"), AUROC()))
    assert list(SubsetAccuracy().right(outcomes)) == [True] * 4


def test_a_label_the_model_does_not_have_is_named() -> None:
    with pytest.raises(DataError, match="'refund'; the model has label 0, label 1"):
        F1(label="refund").compute(answers(5, 2, 0))
