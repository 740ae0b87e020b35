"""How good a share of right answers may be, at whatever moment somebody looks.

A look every hour at a 95 % interval finds something on most days though nothing is wrong. So the bounds here hold at
all numbers of answers at once (time-uniform; Robbins 1970; Howard, Ramdas, McAuliffe and Sekhon 2021, arXiv 1810.08240,
section 3). Against `every answer is right with a probability of at least m`, whatever that probability is and however
it varies, stands the mixture over q < m of the likelihood ratios of q to m: a supermartingale that begins at 1, so by
Ville's inequality it ever reaches 1/level with a probability of at most `level`.
"""

from __future__ import annotations

import math

_PRIOR = 0.5
"""Of the mixture, Beta(1/2, 1/2) below m (Krichevsky and Trofimov): it loses least over an unknown share."""
_STEPS = 60


def log_evidence(right: int, rows: int, least: float) -> float:
    """Return the log of the evidence that answers are right less often than `least`; 0 says nothing."""
    from scipy.special import betainc, betaln

    if least <= 0.0:
        return -math.inf
    wrong = rows - right
    if least >= 1.0:
        return math.inf if wrong else 0.0

    def log_mass(a: float, b: float) -> float:
        below = float(betainc(a, b, least))
        return float(betaln(a, b)) + math.log(below) if below > 0.0 else -math.inf

    ratio = log_mass(right + _PRIOR, wrong + _PRIOR) - log_mass(_PRIOR, _PRIOR)
    return ratio - right * math.log(least) - wrong * math.log1p(-least)


def upper_bound(right: int, rows: int, level: float) -> float:
    """Return a share that is ever below the true one, at any number of rows, with a probability of at most `level`."""
    if not rows:
        return 1.0
    enough = math.log(1.0 / level)
    low, high = right / rows, 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if log_evidence(right, rows, middle) >= enough else (middle, high)
    return high


def lower_bound(right: int, rows: int, level: float) -> float:
    """Return a share that is ever above the true one, at any number of rows, with a probability of at most `level`."""
    return 1.0 - upper_bound(rows - right, rows, level)


def level_of(window: int, level: float) -> float:
    """Return a window's part of a level, from the first, 1, on: of however many windows they add up to it (6/pi^2)."""
    return level * 6.0 / (math.pi * window) ** 2


def measured_at_least(right: int, rows: int, level: float) -> float:
    """Return the lower end of Clopper and Pearson's interval (1934) of a share that was measured once."""
    from scipy.stats import beta

    return float(beta.ppf(level, right, rows - right + 1)) if right else 0.0
