"""Paired comparisons: the right test for each metric, and verdicts that many comparisons at once do not inflate."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.stats

from ftlib.evaluation.evaluation import Evaluation
from ftlib.evaluation.measured import Estimate, EvalReport, Measured
from ftlib.evaluation.metrics import Accuracy, LogLoss
from ftlib.evaluation.results import Difference, adjusted, differences
from ftlib.evaluation.significance import holm, mcnemar_p
from ftlib.kinds.outcomes import LabelOutcomes


def answers(right: np.ndarray, nll: np.ndarray) -> LabelOutcomes:
    gold = np.arange(len(right)) % 2
    return LabelOutcomes(
        row_ids=tuple(map(str, range(len(right)))),
        nll=nll,
        targets=np.ones(len(right), np.int64),
        labels=("a", "b"),
        gold=gold,
        predicted=np.where(right, gold, 1 - gold),
        probabilities=np.full((len(right), 2), 0.5),
    )


def compared(**tables: LabelOutcomes) -> list[Difference]:
    """Compare ours with theirs on one evaluation."""
    cells = tuple(
        Measured(
            candidate=name,
            weights=name,
            alpha=None,
            evaluation="target",
            split="test",
            rows=len(table),
            outcomes=name,
            metrics={},
        )
        for name, table in tables.items()
    )
    evaluations = {"target": Evaluation(dataset="rows", metrics=(Accuracy(), LogLoss()), resamples=1000)}

    def load(cell: Measured) -> LabelOutcomes:
        return tables[cell.outcomes]

    return list(differences("ours", "theirs", [EvalReport(measured=cells)], evaluations, load, seed=0))


@pytest.fixture
def found() -> list[Difference]:
    random = np.random.default_rng(0)
    right = random.random(1000) < 0.8
    better = right | (random.random(1000) < 0.08)
    nll = random.gamma(2, 1, 1000)
    return compared(ours=answers(better, nll), theirs=answers(right, nll + random.normal(0, 0.1, 1000)))


def test_accuracy_is_tested_by_mcnemar_and_the_rest_by_resampling(found: list[Difference]) -> None:
    accuracy, log_loss = found
    flips = round(accuracy.estimate.value * 1000)  # ours is right wherever theirs is
    assert accuracy.p == pytest.approx(scipy.stats.binomtest(flips, flips).pvalue)
    assert (accuracy.metric, accuracy.verdict) == ("accuracy", "better")
    assert accuracy.adjusted_p is None
    assert 0.002 < log_loss.p <= 1
    assert (log_loss.verdict == "undecided") == (log_loss.p > 0.05)


def test_the_verdict_follows_the_metric_s_direction() -> None:
    right, nll = np.arange(200) % 4 > 0, np.ones(200)
    better = compared(ours=answers(right, nll * 0.9), theirs=answers(right, nll))[1]
    worse = compared(ours=answers(right, nll), theirs=answers(right, nll * 0.9))[1]
    assert (better.estimate.value < 0, better.verdict) == (True, "better")
    assert (worse.estimate.value > 0, worse.verdict) == (True, "worse")
    same = compared(ours=answers(right, nll), theirs=answers(right, nll))
    assert [(d.p, d.verdict) for d in same] == [(1.0, "undecided")] * 2


def test_together_they_must_be_clearer(found: list[Difference]) -> None:
    def at(**update: Any) -> Difference:
        return found[0].model_copy(update=update).judged(None)

    alone = [at(p=p) for p in (0.001, 0.02, 0.03, 0.9)]
    assert [d.verdict for d in alone] == ["better", "better", "better", "undecided"]
    together = adjusted(alone)
    assert [d.adjusted_p for d in together] == pytest.approx([0.004, 0.06, 0.06, 0.9])
    assert [d.verdict for d in together] == ["better", "undecided", "undecided", "undecided"]
    assert adjusted([]) == []


def test_what_is_undefined_takes_no_part_in_the_adjustment(found: list[Difference]) -> None:
    nothing = Estimate(value=None, low=None, high=None, undefined="all rows have the same label")
    undefined = found[0].model_copy(update={"estimate": nothing, "p": None}).judged(None)
    together = adjusted([found[0].judged(0.02).model_copy(update={"p": 0.02}), undefined, found[0]])
    assert [d.adjusted_p for d in together] == [pytest.approx(0.02), None, pytest.approx(2 * (found[0].p or 1))]
    assert together[1].verdict == "undefined"
    assert together[1].p_text() == "–"
    assert together[1].line().endswith("ours minus theirs is undefined: all rows have the same label")


def test_no_true_difference_is_claimed_in_more_than_one_report_of_twenty() -> None:
    random, trials, level = np.random.default_rng(2), 300, 0.05
    wrong = 0
    for _ in range(trials):
        ours, theirs = random.random((2, 8, 60)) < 0.7
        wrong += min(holm([mcnemar_p(a, b) for a, b in zip(ours, theirs, strict=True)])) <= level
    assert wrong <= scipy.stats.binom.ppf(0.999, trials, level)


def test_no_p_value_is_shown_as_zero(found: list[Difference]) -> None:
    tiny, large = found[0].judged(0.0004), found[0].judged(0.25)
    assert "p < 0.001 (Holm)" in tiny.line()
    assert "p 0.250 (Holm)" in large.line()
    assert found[0].model_copy(update={"adjusted_p": None, "p": 0.5}).p_text() == "0.500"


def test_models_that_answer_alike_are_said_to_metric_by_metric():
    right = np.random.default_rng(0).random(179) < 0.7
    nll = np.random.default_rng(1).random(179)
    same = compared(ours=answers(right, nll), theirs=answers(right.copy(), nll.copy()))
    assert [d.identical_rows for d in same] == [179, 179]
    assert same[0].line().endswith("identical answers on 179 rows")
    surer = compared(ours=answers(right, nll), theirs=answers(right, nll + 0.1))
    assert {d.metric: d.identical_rows for d in surer} == {"accuracy": 179, "log_loss": None}
    # As many right, but others: the difference is 0.0, and the answers are not the same.
    other = compared(ours=answers(right, nll), theirs=answers(np.roll(right, 1), nll))
    assert other[0].estimate.value == 0.0
    assert other[0].identical_rows is None
