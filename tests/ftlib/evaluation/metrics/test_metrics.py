"""Every metric equals scikit-learn's (or plain numpy), over all rows and on every resample."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from ftlib.config import BatchKind
from ftlib.errors import DataError
from ftlib.evaluation.metrics import (
    AUROC,
    ECE,
    F1,
    MCC,
    Accuracy,
    BitsPerByte,
    Brier,
    Entropy,
    LogLoss,
    MacroF1,
    MacroPrecision,
    MacroRecall,
    Metric,
    NuclearNorm,
    Perplexity,
    Precision,
    Recall,
    WeightedF1,
)
from ftlib.evaluation.metrics.base import MeanOverRows
from ftlib.kinds.outcomes import LabelOutcomes, TokenOutcomes
from ftlib.training.tuning.base import TuningBase

ONE = "label 1"
METRICS: tuple[Metric, ...] = (
    Accuracy(),
    LogLoss(),
    MacroF1(),
    MacroPrecision(),
    MacroRecall(),
    WeightedF1(),
    Precision(label=ONE),
    Recall(label=ONE),
    F1(label=ONE),
    MCC(),
    AUROC(),
    Brier(),
    ECE(),
    ECE(bins=4),
    Entropy(),
    NuclearNorm(),
    Perplexity(),
    BitsPerByte(),
)


def labeled(rows: int, labels: int, seed: int) -> LabelOutcomes:
    """Return random answers in which some labels may neither occur nor be predicted."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 2, (rows, labels))
    logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
    gold = random.integers(0, labels, rows)
    return LabelOutcomes(
        row_ids=tuple(map(str, range(rows))),
        nll=-logits[np.arange(rows), gold],
        targets=np.ones(rows, np.int64),
        labels=tuple(f"label {i}" for i in range(labels)),
        gold=gold,
        predicted=logits.argmax(axis=1),
        probabilities=np.exp(logits),
    )


def tokens(rows: int, seed: int) -> TokenOutcomes:
    random = np.random.default_rng(seed)
    targets = random.integers(1, 30, rows)
    return TokenOutcomes(
        row_ids=tuple(map(str, range(rows))),
        nll=targets * random.gamma(2, 1, rows),
        targets=targets,
        target_bytes=targets * random.integers(1, 9, rows),
    )


def reference(metric: Metric, o: LabelOutcomes | TokenOutcomes) -> float:
    return reference_of_labels(metric, o) if isinstance(o, LabelOutcomes) else reference_of_tokens(metric, o)


def reference_of_tokens(metric: Metric, o: TokenOutcomes) -> float:
    match metric:
        case Perplexity():
            return math.exp(math.fsum(o.nll) / int(o.targets.sum()))
        case BitsPerByte():
            return math.fsum(o.nll) / math.log(2) / int(o.target_bytes.sum())
    raise AssertionError(f"no reference for {metric.kind}")


def reference_of_labels(metric: Metric, o: LabelOutcomes) -> float:
    every, occurring = list(range(len(o.labels))), np.unique(o.gold)
    if 1 not in occurring and isinstance(metric, Precision | Recall | F1):
        return math.nan
    report: Any = sklearn.metrics.classification_report(
        o.gold, o.predicted, labels=every, output_dict=True, zero_division=0.0
    )
    match metric:
        case Accuracy():
            return float(np.mean(o.gold == o.predicted))
        case LogLoss():
            return float(sklearn.metrics.log_loss(o.gold, o.probabilities, labels=every))
        case MacroF1():
            return float(np.mean([report[str(label)]["f1-score"] for label in occurring]))
        case MacroPrecision():
            return float(np.mean([report[str(label)]["precision"] for label in occurring]))
        case MacroRecall():
            return float(sklearn.metrics.recall_score(o.gold, o.predicted, labels=occurring, average="macro"))
        case WeightedF1():
            return float(report["weighted avg"]["f1-score"])
        case Precision():
            return sklearn.metrics.precision_score(o.gold == 1, o.predicted == 1, zero_division=math.nan)
        case Recall():
            return float(report["1"]["recall"])
        case F1():
            return float(report["1"]["f1-score"])
        case MCC():
            if len(occurring) == 1 or len(np.unique(o.predicted)) == 1:
                return math.nan if len(occurring) == 1 else 0.0
            hot = [np.eye(len(every))[labels].ravel() for labels in (o.gold, o.predicted)]
            x, y = (side.reshape(-1, len(every)) - side.reshape(-1, len(every)).mean(axis=0) for side in hot)
            return float((x * y).sum() / np.sqrt((x * x).sum() * (y * y).sum()))  # Gorodkin's own form
        case AUROC():
            return auroc(o)
        case Brier():
            return float(sklearn.metrics.brier_score_loss(o.gold, o.probabilities, labels=every))
        case ECE():
            return ece(o, metric.bins)
        case Entropy():
            return float(np.mean(scipy.stats.entropy(o.probabilities, axis=1)))
        case NuclearNorm():
            rows, labels = o.probabilities.shape
            return float(np.linalg.norm(o.probabilities, "nuc")) / math.sqrt(rows * min(rows, labels))
    raise AssertionError(f"no reference for {metric.kind}")


def auroc(o: LabelOutcomes) -> float:
    """Count pairs."""
    areas = []
    for label in np.unique(o.gold):
        ours, others = (o.probabilities[o.gold == label, label], o.probabilities[o.gold != label, label])
        if len(others):
            wins = (ours[:, None] > others).mean() + 0.5 * (ours[:, None] == others).mean()
            areas.append(float(wins))
    return float(np.mean(areas)) if areas else math.nan


def ece(o: LabelOutcomes, bins: int) -> float:
    """Go bin by bin, as the paper writes it."""
    confidence, total = o.probabilities.max(axis=1), 0.0
    for low, high in zip(np.linspace(0, 1, bins + 1)[:-1], np.linspace(0, 1, bins + 1)[1:], strict=True):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            accuracy = (o.gold == o.predicted)[inside].mean()
            total += inside.mean() * abs(accuracy - confidence[inside].mean())
    return total


@settings(max_examples=40)
@given(rows=st.integers(1, 60), labels=st.integers(2, 8), seed=st.integers(0, 1000), which=st.sampled_from(METRICS))
def test_a_metric_and_its_resamples_equal_the_reference(rows: int, labels: int, seed: int, which: Metric) -> None:
    outcomes = labeled(rows, labels, seed) if "labeled" in which.reads else tokens(rows, seed)
    assert which.compute(outcomes) == pytest.approx(reference(which, outcomes), abs=1e-12, nan_ok=True)
    draws = np.random.default_rng(seed).integers(0, rows, (5, rows))
    expected = [reference(which, outcomes.take(draw)) for draw in draws]
    # A singular value of zero is the root of an eigenvalue that is zero to rounding: half of the digits.
    precision = 1e-7 if isinstance(which, NuclearNorm) else 1e-12
    assert which.resampled(outcomes, draws) == pytest.approx(expected, abs=precision, nan_ok=True)


def test_auroc_counts_ties_half() -> None:
    outcomes = labeled(40, 3, 2)
    tied = replace(outcomes, probabilities=np.round(outcomes.probabilities, 1))
    expected = np.mean([sklearn.metrics.roc_auc_score(tied.gold == i, tied.probabilities[:, i]) for i in range(3)])
    assert AUROC().compute(tied) == pytest.approx(expected) == pytest.approx(auroc(tied))
    draws = np.random.default_rng(0).integers(0, 40, (30, 40))
    assert AUROC().resampled(tied, draws) == pytest.approx([auroc(tied.take(draw)) for draw in draws])


def test_auroc_of_two_labels_is_the_usual_one() -> None:
    outcomes = labeled(50, 2, 0)
    assert AUROC().compute(outcomes) == pytest.approx(
        sklearn.metrics.roc_auc_score(outcomes.gold, outcomes.probabilities[:, 1])
    )


def test_a_perfectly_calibrated_model_still_has_an_error_on_few_rows() -> None:
    random, found = np.random.default_rng(0), []
    for rows in (200, 5000):
        confidence = random.uniform(0.5, 1, rows)
        right = random.random(rows) < confidence
        probabilities = np.stack([confidence, 1 - confidence], axis=1)
        found.append(
            ECE().compute(
                replace(
                    labeled(rows, 2, 0),
                    gold=np.where(right, 0, 1),
                    predicted=np.zeros(rows, int),
                    probabilities=probabilities,
                )
            )
        )
    assert 0.03 < found[0] < 0.15
    assert found[1] < 0.03


def test_a_label_the_model_does_not_have_is_named() -> None:
    with pytest.raises(DataError, match="'refund'; the model has label 0, label 1"):
        F1(label="refund").compute(labeled(5, 2, 0))


def test_names_tell_the_metrics_of_an_evaluation_apart() -> None:
    assert F1(label="refund").name == "f1:refund"
    assert MCC().name == "mcc"


def test_a_label_that_is_never_predicted_counts_zero_and_one_that_never_occurs_does_not_count() -> None:
    gold, predicted = np.array([0, 0, 1, 1]), np.array([0, 0, 0, 2])
    outcomes = replace(labeled(4, 3, 0), gold=gold, predicted=predicted)
    assert MacroF1().compute(outcomes) == pytest.approx((0.8 + 0.0) / 2)


def test_log_loss_sees_a_confident_error_whole() -> None:
    sure = replace(
        labeled(1, 2, 0),
        nll=np.array([100.0]),
        gold=np.array([0]),
        predicted=np.array([1]),
        probabilities=np.array([[0.0, 1.0]], np.float32),
    )
    assert LogLoss().compute(sure) == 100.0
    assert sklearn.metrics.log_loss([0], sure.probabilities, labels=[0, 1]) < 17  # the trap: clipped


def test_the_direction_of_each_metric_is_right() -> None:
    right, wrong = labeled(30, 3, 0), labeled(30, 3, 0)
    right = replace(right, nll=right.nll * 0.1, predicted=right.gold, probabilities=np.eye(3)[right.gold])
    for metric in METRICS[:-2]:
        assert (metric.compute(right) > metric.compute(wrong)) == metric.higher_is_better


def test_a_part_that_leaves_out_what_it_is_for_cannot_be_made() -> None:
    class Half(MeanOverRows):
        kind: Literal["half"] = "half"
        reads: ClassVar[frozenset[BatchKind]] = frozenset({"labeled"})
        higher_is_better: ClassVar[bool] = True

    class Idle(TuningBase):
        kind: Literal["idle"] = "idle"

    for part, lacks in ((Half, "per_row"), (Idle, "prepare")):
        with pytest.raises(TypeError, match=f"abstract method '?{lacks}"):
            part()
