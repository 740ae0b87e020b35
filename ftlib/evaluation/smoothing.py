"""The curve of a score along alpha, seen through noisy points that share their rows.

The best of several measured scores is the best of truth plus luck. Along the line between two models the truth is
smooth, and the luck is not independent: all candidates answer the same rows. Both are known here, so the curve that was
there before the rows were drawn can be estimated: stochastic kriging (Ankenman, Nelson & Staum 2010) with common random
numbers (Chen, Ankenman & Nelson 2012), which is Gaussian process regression with a known, full covariance of the noise.

The prior: an unknown level (of which nothing is believed) plus a Gaussian process with a squared exponential kernel
(Rasmussen & Williams 2006, sections 2.7 and 5.4.1). Its height and length are not fitted but averaged over a grid, each
by its marginal likelihood: from ten points the likeliest alone would be too sure.
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
"""Heights of the curve that are averaged over, from a fifth of the noise's to thrice what was seen."""
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
    """Return the expected score at the alphas `at`, of values measured at `alphas` with that covariance of their noise.

    Without noise it goes through the values, but for the kernels' nugget; where the noise hides the curve, it is flat. Scaled and
    shifted values give the curve scaled and shifted.
    """
    import numpy as np

    points, wanted = np.asarray(alphas, np.float64), np.asarray(at, np.float64)
    level = float(values.mean())
    # The noise that all share moves the level; a curve is told from what is left.
    count = len(points)
    own = float(np.trace(noise) - noise.sum() / count) / (count - 1)
    seen = float(values.var(ddof=1))
    if seen <= 1e-24 * max(1.0, level * level):
        return Curve(np.full(len(wanted), level), np.full(len(wanted), float(np.sqrt(max(0.0, noise.mean())))))
    heights = np.geomspace(0.04 * max(own, 1e-6 * seen), 9.0 * max(own, seen), HEIGHTS)
    apart = np.abs(points[:, None] - points[None])
    across = np.abs(wanted[:, None] - points[None])
    fits: list[tuple[float, Float[np.ndarray, " alphas"], Float[np.ndarray, " alphas"]]] = []
    for length in LENGTHS:
        here, there = np.exp(-0.5 * (apart / length) ** 2), np.exp(-0.5 * (across / length) ** 2)
        for height in heights:
            covariance = height * (here + _NUGGET * np.eye(count)) + noise
            fits.append(_fit(values - level, covariance, height * there, float(height)))
    evidence = np.array([fit[0] for fit in fits])
    weights = np.exp(evidence - evidence.max())
    weights /= weights.sum()
    means, variances = np.array([fit[1] for fit in fits]), np.array([fit[2] for fit in fits])
    mean = weights @ means
    spread = weights @ (variances + (means - mean) ** 2)
    return Curve(level + mean, np.sqrt(spread.clip(min=0.0)))


def _fit(
    values: Float[np.ndarray, " points"],
    covariance: Float[np.ndarray, "points points"],
    across: Float[np.ndarray, "alphas points"],
    height: float,
) -> tuple[float, Float[np.ndarray, " alphas"], Float[np.ndarray, " alphas"]]:
    """Return the log evidence, the means and the variances of one kernel: equations 2.41, 2.42 and 2.45."""
    import numpy as np
    from scipy.linalg import cho_factor, cho_solve

    factor = cho_factor(covariance, lower=True)
    ones = np.ones(len(values))
    of_values, of_ones, of_across = (cho_solve(factor, it) for it in (values, ones, across.T))
    precision = float(ones @ of_ones)
    level = float(ones @ of_values) / precision
    residual = values - level
    mean = level + across @ cho_solve(factor, residual)
    left = 1.0 - across @ of_ones
    variance = height - (across * of_across.T).sum(axis=1) + left**2 / precision
    log_determinant = 2.0 * float(np.log(np.diag(factor[0])).sum())
    evidence = -0.5 * (float(residual @ cho_solve(factor, residual)) + log_determinant + float(np.log(precision)))
    return evidence, mean, variance
