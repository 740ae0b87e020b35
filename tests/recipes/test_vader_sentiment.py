"""How far two texts' raters agree about which of the two was rated higher, by hand."""

from __future__ import annotations

from collections import Counter
from itertools import product

import pytest
from scipy.stats import mannwhitneyu

from recipes.vader_sentiment import agreement


@pytest.mark.parametrize(
    ("better", "worse", "share"),
    [
        ([3, 4], [-1, 1], 1.0),
        ([-2], [0, 1, 4], 0.0),
        ([1, 2], [1], 1.0),  # the two who both said 1 say nothing of the order
        ([0, 2], [1, 1], 0.5),
        ([3, 1, 1], [2, 0], 4 / 6),
        ([2, 2, -1], [2, 0], 2 / 4),
        ([1, 1], [1], 0.5),  # nobody differs
        ([], [1], 0.5),
    ],
)
def test_agreement_is_the_share_of_raters_who_differ_in_this_order(
    better: list[int], worse: list[int], share: float
) -> None:
    assert agreement(Counter(better), Counter(worse)) == pytest.approx(share)
    assert agreement(Counter(worse), Counter(better)) == pytest.approx(1 - share)


def test_agreement_is_mann_and_whitney_s_u_without_ties() -> None:
    """U counts a tie as half a win; without those halves, and over the pairs that differ, it is the agreement."""
    better, worse = [4, 3, 3, 2, 0, -1, 2, 3], [1, 0, 2, 2, -3, 3, 0]
    ties = sum(a == b for a, b in product(better, worse))
    wins = mannwhitneyu(better, worse).statistic - ties / 2
    share = wins / (len(better) * len(worse) - ties)
    assert agreement(Counter(better), Counter(worse)) == pytest.approx(share)
