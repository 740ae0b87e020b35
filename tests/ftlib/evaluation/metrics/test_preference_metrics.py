"""Metrics of pairs and thumbs against scikit-learn and numpy, on all rows and on every resample."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from ftlib.errors import DataError
from ftlib.evaluation.metrics.preference_accuracy import PreferenceAccuracy
from ftlib.evaluation.metrics.preference_margin import PreferenceMargin
from ftlib.evaluation.metrics.reward_accuracy import RewardAccuracy
from ftlib.evaluation.metrics.reward_margin import RewardMargin
from ftlib.evaluation.metrics.thumb_auroc import ThumbAUROC
from ftlib.evaluation.metrics.thumb_margin import ThumbMargin
from ftlib.kinds.outcomes import JudgedOutcomes, PreferenceOutcomes
from ftlib.kinds.outcomes_file import parse_outcomes

RANDOM = np.random.default_rng(0)
COUNT = 30
CHOSEN, REJECTED = RANDOM.uniform(2, 30, COUNT), RANDOM.uniform(2, 30, COUNT)
TOKENS = RANDOM.integers(2, 9, (COUNT, 2))
REFERENCE = -RANDOM.uniform(2, 30, (COUNT, 2))
WANTED = RANDOM.random(COUNT) < 0.4
COMMON: dict[str, Any] = {"row_ids": tuple(map(str, range(COUNT))), "nll": CHOSEN, "targets": TOKENS[:, 0]}


def pairs(reference: Any = REFERENCE) -> PreferenceOutcomes:
    return PreferenceOutcomes(**COMMON, rejected_nll=REJECTED, rejected_targets=TOKENS[:, 1], reference=reference)


def thumbs(reference: Any = REFERENCE[:, 0]) -> JudgedOutcomes:
    return JudgedOutcomes(**COMMON, wanted=WANTED, reference=reference)


@pytest.mark.parametrize(
    ("metric", "table", "expected"),
    [
        (PreferenceAccuracy(), pairs(), lambda i: (CHOSEN < REJECTED)[i].mean()),
        (
            PreferenceAccuracy(per_token=True),
            pairs(),
            lambda i: (CHOSEN / TOKENS[:, 0] < REJECTED / TOKENS[:, 1])[i].mean(),
        ),
        (PreferenceMargin(), pairs(), lambda i: (REJECTED - CHOSEN)[i].mean()),
        (
            RewardAccuracy(),
            pairs(),
            lambda i: (-CHOSEN - REFERENCE[:, 0] > -REJECTED - REFERENCE[:, 1])[i].mean(),
        ),
        (RewardMargin(), pairs(), lambda i: (REJECTED - CHOSEN + REFERENCE[:, 1] - REFERENCE[:, 0])[i].mean()),
        (ThumbMargin(), thumbs(), lambda i: -CHOSEN[i][WANTED[i]].mean() + CHOSEN[i][~WANTED[i]].mean()),
        (ThumbAUROC(), thumbs(), lambda i: roc_auc_score(WANTED[i], (-CHOSEN - REFERENCE[:, 0])[i])),
    ],
    ids=lambda one: getattr(one, "name", ""),
)
def test_a_metric_is_its_definition_on_every_draw(metric: Any, table: Any, expected: Any) -> None:
    again = parse_outcomes(table.to_parquet())
    draws = RANDOM.integers(0, COUNT, (5, COUNT))
    assert metric.compute(again) == pytest.approx(expected(np.arange(COUNT)))
    assert metric.resampled(again, draws) == pytest.approx([expected(draw) for draw in draws])


def test_rewards_need_a_reference_and_its_rounding_is_none() -> None:
    for metric, table in ((RewardMargin(), pairs(None)), (RewardAccuracy(), pairs(None)), (ThumbAUROC(), thumbs(None))):
        with pytest.raises(DataError, match="give the evaluation `reference"):
            metric.compute(parse_outcomes(table.to_parquet()))
    rounded = -np.stack([CHOSEN, REJECTED], axis=1).astype(np.float32).astype(np.float64)
    assert RewardMargin().compute(pairs(rounded)) == 0
    assert ThumbAUROC().compute(thumbs(rounded[:, 0])) == 0.5


def test_thumbs_of_one_kind_define_nothing() -> None:
    alike = JudgedOutcomes(**COMMON, wanted=np.ones(COUNT, bool), reference=REFERENCE[:, 0])
    assert all(np.isnan(metric.compute(alike)) for metric in (ThumbMargin(), ThumbAUROC()))
