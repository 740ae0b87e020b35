"""Tests of differences: how surprising one would be if there were none, and what many tests at once may still claim."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Bool, Float


def bootstrap_p(resampled: Float[np.ndarray, " resamples"]) -> float:
    """Return the two-sided p-value of a difference from its paired resamples: it is small where they leave zero out.

    Never 0: n resamples cannot tell less than 2 / (n + 1).
    """
    smaller = min(int((resampled <= 0.0).sum()), int((resampled >= 0.0).sum()))
    return min(1.0, 2.0 * (1 + smaller) / (1 + len(resampled)))


def mcnemar_p(ours_right: Bool[np.ndarray, " rows"], theirs_right: Bool[np.ndarray, " rows"]) -> float:
    """Return McNemar's (1947) exact two-sided p-value: rows that just one of two models gets right, as coin tosses.

    1 where no row tells them apart.
    """
    from scipy.stats import binomtest

    ours_only = int((ours_right & ~theirs_right).sum())
    apart = ours_only + int((theirs_right & ~ours_right).sum())
    return float(binomtest(ours_only, apart).pvalue) if apart else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's (1979) adjusted p-values, in the order given.

    Calling those below 0.05 different is wrong about any of them in at most 5 % of the reports.
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, highest = [1.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = highest
    return adjusted
