"""p-values against scipy and against what they promise."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from ftlib.evaluation.significance import bootstrap_p, holm, mcnemar_p


@settings(max_examples=50)
@given(rows=st.integers(1, 40), seed=st.integers(0, 1000))
def test_mcnemar_is_the_sum_of_the_binomial_s_tails(rows: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    ours, theirs = random.random((2, rows)) < 0.7
    b, c = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    tail = scipy.stats.binom.cdf(min(b, c), b + c, 0.5)
    assert mcnemar_p(ours, theirs) == pytest.approx(min(1.0, 2 * tail))
    assert mcnemar_p(ours, theirs) == mcnemar_p(theirs, ours)


def test_the_example_that_two_separate_intervals_miss() -> None:
    ours, theirs = np.ones(2000, bool), np.ones(2000, bool)
    ours[:70], theirs[70:170] = False, False  # 96.5 % against 95 %
    assert mcnemar_p(ours, theirs) == pytest.approx(scipy.stats.binomtest(100, 170).pvalue)
    assert mcnemar_p(ours, theirs) < 0.05
    assert mcnemar_p(ours, ours) == 1.0


def test_holm_by_hand() -> None:
    # Holm (1979): 0.01 * 3, then 0.02 * 2, then 0.03 cannot be below what came before.
    assert holm([0.03, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


@settings(max_examples=50)
@given(p=st.lists(st.floats(0, 1), min_size=1, max_size=8), level=st.sampled_from([0.01, 0.05, 0.2]))
def test_holm_rejects_as_the_step_down_procedure_does(p: list[float], level: float) -> None:
    rejected, left = set[int](), sorted(range(len(p)), key=lambda i: p[i])
    while left and p[left[0]] * len(left) <= level:
        rejected.add(left.pop(0))
    # The last steps may tie at exactly the level; only clear cases are compared.
    for i, adjusted in enumerate(holm(p)):
        if abs(adjusted - level) > 1e-9:
            assert (adjusted <= level) == (i in rejected)


def test_a_bootstrap_p_value_agrees_with_a_t_test() -> None:
    random = np.random.default_rng(0)
    for shift in (0.0, 0.1, 0.2):
        sample = random.normal(shift, 1, 400)
        draws = sample[random.integers(0, 400, (5000, 400))].mean(axis=1)
        assert bootstrap_p(draws) == pytest.approx(scipy.stats.ttest_1samp(sample, 0.0).pvalue, abs=0.03)


def test_a_bootstrap_p_value_is_never_zero() -> None:
    assert bootstrap_p(np.ones(999)) == pytest.approx(0.002)
    assert bootstrap_p(np.zeros(999)) == 1.0
