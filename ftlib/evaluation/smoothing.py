"""The curve of a score along alpha, seen through noisy points that share their rows.

The best of several measured scores is the best of truth plus luck. Along the line between two models the truth is
smooth; luck is smooth as well, as neighbours answer most rows alike, but for the rows that flip from one to the next.
Those make a score jagged, and how jagged follows from the paired covariance of the scores. That part is taken for
noise; the rest cannot be told from the curve by anyone, so it stays in it, and in its interval.

The curve is that of Gaussian process regression (Rasmussen & Williams 2006, section 2.7): an unknown level, of which
nothing is believed, plus a process with a squared exponential kernel. The kernel's height and length are not fitted but
averaged over a grid, each by its marginal likelihood (section 5.4.1): from ten points the likeliest alone is too sure.

To weigh the points by their whole covariance (stochastic kriging with common random numbers: Chen, Ankenman & Nelson
2012) is right where the prior is, and was worse on real curves (docs/select.md): nearly singular, it finds in the
differences between neighbours what the level must be, and moves the curve off every point.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float

LEAST = 4
"""Points of which a curve can be told from noise: two are the ends, and a third could be either."""
LENGTHS = (0.15, 0.3, 0.6, 1.2)
"""How far along alpha scores are alike, of a line of length 1."""
HEIGHTS = 13
"""Variances of the curve that are averaged over, from little of the noise's to nine times what was seen."""
_NUGGET = 1e-6
"""Of the kernel's variance: near points are so alike that no inverse would be."""


@dataclass(frozen=True)
class Curve:
    """What is expected of a score at some alphas, given what was measured at others."""

    expected: Float[np.ndarray, " alphas"]
    error: Float[np.ndarray, " alphas"]
    """The standard deviation of what is expected; the level's, which all rows share, is in it."""


def smooth(
    alphas: Sequence[float],
    values: Float[np.ndarray, " points"],
    noise: Float[np.ndarray, "points points"],
    at: Sequence[float],
) -> Curve:
    """Return the expected score at the alphas `at`, of values measured at ascending `alphas`, with their covariance.

    Without noise it goes through the values, but for the kernels' nugget; where the noise hides the curve, it is flat.
    Scaled and shifted values give the curve scaled and shifted.
    """
    import numpy as np

    points, wanted = np.asarray(alphas, np.float64), np.asarray(at, np.float64)
    middle, seen, count = float(values.mean()), float(values.var(ddof=1)), len(points)
    if seen <= 1e-24 * max(1.0, middle * middle):
        return Curve(np.full(len(wanted), middle), np.full(len(wanted), float(np.sqrt(max(0.0, noise.mean())))))
    own = max(roughness(points, noise), 1e-9 * seen)
    apart, across = np.abs(points[:, None] - points), np.abs(wanted[:, None] - points)
    evidence: list[float] = []
    maps: list[Float[np.ndarray, "alphas points"]] = []
    for length in LENGTHS:
        here, there = np.exp(-0.5 * (apart / length) ** 2), np.exp(-0.5 * (across / length) ** 2)
        for height in np.geomspace(0.04 * own, 9.0 * max(own, seen), HEIGHTS):
            covariance = height * (here + _NUGGET * np.eye(count)) + own * np.eye(count)
            likely, weights = fit(values - middle, covariance, height * there)
            evidence.append(likely)
            maps.append(weights)
    shares = np.exp(np.array(evidence) - max(evidence))
    shares /= shares.sum()
    every = np.array(maps)
    means = every @ (values - middle)
    whole = np.tensordot(shares, every, 1)
    between = shares @ (means - shares @ means) ** 2
    variance = ((whole @ noise) * whole).sum(axis=1) + between
    return Curve(middle + shares @ means, np.sqrt(variance.clip(min=0.0)))


def roughness(alphas: Float[np.ndarray, " points"], noise: Float[np.ndarray, "points points"]) -> float:
    """Return the variance of the noise that each point has for itself: by how far it is off its neighbours' line.

    It is exact for noise that is independent from point to point, and nothing for noise that is a straight line.
    """
    import numpy as np

    off = np.zeros((len(alphas) - 2, len(alphas)))
    for i in range(len(off)):
        share = (alphas[i + 1] - alphas[i]) / (alphas[i + 2] - alphas[i])
        off[i, i : i + 3] = -(1.0 - share), 1.0, -share
    return float(np.trace(off @ noise @ off.T) / (off**2).sum())


def fit(
    values: Float[np.ndarray, " points"],
    covariance: Float[np.ndarray, "points points"],
    across: Float[np.ndarray, "alphas points"],
) -> tuple[float, Float[np.ndarray, "alphas points"]]:
    """Return one kernel's log evidence, and what to multiply values by for the curve: equations 2.41 and 2.45."""
    import numpy as np
    from scipy.linalg import cho_factor, cho_solve

    factor = cho_factor(covariance, lower=True)
    inverse = cho_solve(factor, np.eye(len(values)))
    of_ones = inverse.sum(axis=0)
    precision = float(of_ones.sum())
    level = of_ones / precision
    residual = values - level @ values
    weights = level + across @ (inverse - np.outer(of_ones, level))
    log_determinant = 2.0 * float(np.log(np.diag(factor[0])).sum())
    return -0.5 * (float(residual @ inverse @ residual) + log_determinant + float(np.log(precision))), weights
