"""Intervals against scipy's bootstrap, their pairing, and how often they hold the truth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.stats

from ftlib.errors import DataError
from ftlib.evaluation import bootstrap
from ftlib.evaluation.bootstrap import Resampling, difference, estimates
from ftlib.evaluation.metrics import F1, Accuracy, LogLoss, MacroF1, Perplexity, Precision, Recall
from ftlib.kinds.outcomes import LabelOutcomes, TokenOutcomes

NOTHING = np.zeros(0, np.int64)


def answers(right: np.ndarray, nll: np.ndarray | None = None) -> LabelOutcomes:
    """Return three-label outcomes that are right where `right` says so."""
    rows = len(right)
    gold = np.arange(rows) % 3
    return LabelOutcomes(
        row_ids=tuple(map(str, range(rows))),
        nll=np.ones(rows) if nll is None else nll,
        targets=np.ones(rows, np.int64),
        labels=("a", "b", "c"),
        gold=gold,
        predicted=np.where(right, gold, (gold + 1) % 3),
        probabilities=np.full((rows, 3), 1 / 3),
    )


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(0)


def test_an_interval_is_scipy_s_percentile_interval(random: np.random.Generator) -> None:
    outcomes = answers(random.random(400) < 0.7, random.gamma(2, 1, 400))
    ours = estimates(outcomes, (Accuracy(), LogLoss()), Resampling(20_000, 0.95, 0))
    for kind, sample in (("accuracy", outcomes.gold == outcomes.predicted), ("log_loss", outcomes.nll)):
        theirs = scipy.stats.bootstrap(
            (sample,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(1)
        ).confidence_interval
        width = theirs.high - theirs.low
        assert ours[kind].value == pytest.approx(np.mean(sample))
        assert (ours[kind].low, ours[kind].high) == pytest.approx(tuple(theirs), abs=0.03 * width)


def test_a_difference_is_scipy_s_paired_interval(random: np.random.Generator) -> None:
    ours_right = random.random(500) < 0.8
    theirs_right = ours_right & (random.random(500) < 0.95)
    ours, theirs = answers(ours_right), answers(theirs_right)
    got = difference(Accuracy(), ours, theirs, Resampling(20_000, 0.95, 0))
    expected = scipy.stats.bootstrap(
        (ours_right, theirs_right),
        lambda a, b, axis=-1: np.mean(a, axis) - np.mean(b, axis),
        paired=True,
        n_resamples=20_000,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert (got.low, got.high) == pytest.approx(tuple(expected), abs=0.002)
    assert got.low > 0
    separate = [estimates(o, (Accuracy(),), Resampling(2000, 0.95, 0))["accuracy"] for o in (ours, theirs)]
    assert separate[0].low < separate[1].high  # unpaired, the same difference drowns


def test_draws_that_do_not_define_the_metric_are_left_out(random: np.random.Generator) -> None:
    """One row of 20 has the label: a third of the draws lack it, and say nothing about its recall."""
    few = answers(random.random(20) < 0.5)
    rare = replace(few, gold=np.array([0] + [1] * 19), predicted=np.array([0, 0] + [1] * 18))
    how = Resampling(300, 0.9, 0)
    (draws,) = how.draws(20)
    known = [draw for draw in draws if 0 in draw]
    assert 150 < len(known) < 250
    found = estimates(rare, (Recall(label="a"), Precision(label="a"), F1(label="b")), how)
    assert found["recall:a"].numbers() == (1.0, 1.0, 1.0)
    shares = [np.mean(draw[draw < 2] == 0) for draw in known]  # of the rows that are said to be `a`
    low, high = np.quantile(shares, [0.05, 0.95])
    assert found["precision:a"].numbers() == pytest.approx((low, 0.5, high))
    assert found["f1:b"].numbers() is not None
    gap = difference(Recall(label="a"), rare, few.take(np.arange(20)), how)
    assert gap.value is not None
    assert estimates(rare.take(NOTHING), (Accuracy(),), how)["accuracy"].undefined == "there are no rows"


def test_macro_f1_of_a_difference_is_paired_too(random: np.random.Generator) -> None:
    ours = answers(random.random(200) < 0.8)
    got = difference(MacroF1(), ours, ours, Resampling(500, 0.95, 0))
    assert (got.low, got.value, got.high) == (0.0, 0.0, 0.0)


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    random, held, trials = np.random.default_rng(0), 0, 400
    for trial in range(trials):
        outcomes = answers(random.random(150) < 0.7)
        interval = estimates(outcomes, (Accuracy(),), Resampling(400, 0.9, trial))["accuracy"]
        held += interval.low <= 0.7 <= interval.high
    low, high = scipy.stats.binom.interval(0.999, trials, 0.9)
    assert low - 0.02 * trials <= held <= high  # the percentile interval is slightly narrow on 150 rows


def test_perplexity_weighs_tokens_and_not_rows() -> None:
    outcomes = TokenOutcomes(
        row_ids=("a", "b"), nll=np.array([1.0, 90.0]), targets=np.array([1, 30]), target_bytes=np.array([4, 99])
    )
    got = estimates(outcomes, (Perplexity(),), Resampling(500, 0.95, 0))["perplexity"]
    assert got.value == pytest.approx(np.exp(91 / 31))
    assert (got.low, got.high) == pytest.approx((np.exp(1.0), np.exp(3.0)))


def test_draws_depend_on_seed_and_rows_alone_and_not_on_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = np.concatenate(list(Resampling(100, 0.95, 3).draws(17)))
    assert whole.shape == (100, 17)
    assert whole.min() == 0
    assert whole.max() == 16
    monkeypatch.setattr(bootstrap, "BLOCK", 100)
    blocks = list(Resampling(100, 0.95, 3).draws(17))
    assert len(blocks) > 10
    assert (np.concatenate(blocks) == whole).all()
    assert (np.concatenate(list(Resampling(100, 0.95, 4).draws(17))) != whole).any()


def test_other_rows_are_no_pair() -> None:
    ours = answers(np.ones(4, bool))
    theirs = ours.take(np.array([1, 0, 2, 3]))
    with pytest.raises(DataError, match="same rows"):
        difference(Accuracy(), ours, theirs, Resampling(100, 0.95, 0))
