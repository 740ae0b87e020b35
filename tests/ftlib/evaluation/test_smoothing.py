"""The curve along alpha against scikit-learn's Gaussian process, closed forms, and simulations whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel

from ftlib.evaluation.smoothing import fit, roughness, smooth

ALPHAS = np.linspace(0.0, 1.0, 11)


def test_one_kernel_is_the_gaussian_process_of_scikit_learn() -> None:
    """A flat prior on the level is one of huge variance there; ours has it in closed form."""
    random = np.random.default_rng(0)
    values, own = random.normal(size=11), random.uniform(0.1, 0.3, 11)
    apart = np.abs(ALPHAS[:, None] - ALPHAS)
    here = 0.5 * np.exp(-0.5 * (apart / 0.3) ** 2)
    weights = fit(values, here + np.diag(own), here)[1]
    kernel = ConstantKernel(1e6, "fixed") + ConstantKernel(0.5, "fixed") * RBF(0.3, "fixed")
    process = GaussianProcessRegressor(kernel, alpha=own, optimizer=None).fit(ALPHAS[:, None], values)
    np.testing.assert_allclose(weights @ values, process.predict(ALPHAS[:, None]), atol=1e-5)
    np.testing.assert_allclose(weights.sum(axis=1), 1.0, rtol=1e-9)  # a level stays what it is


def test_evidence_is_the_density_of_what_the_level_leaves() -> None:
    """Differences know no level: up to a constant, the evidence is their density."""
    from scipy.stats import multivariate_normal

    random = np.random.default_rng(1)
    values = random.normal(size=11)
    covariances = [0.3 * np.eye(11) + h * np.exp(-0.5 * ((ALPHAS[:, None] - ALPHAS) / 0.4) ** 2) for h in (0.1, 2.0)]
    contrast = np.diff(np.eye(11), axis=0)
    ours = [fit(values, c, np.zeros((1, 11)))[0] for c in covariances]
    theirs = [
        multivariate_normal(np.zeros(10), contrast @ c @ contrast.T).logpdf(contrast @ values) for c in covariances
    ]
    assert ours[1] - ours[0] == pytest.approx(theirs[1] - theirs[0])


def test_without_noise_it_goes_through_the_values() -> None:
    values = 0.7 - (ALPHAS - 0.4) ** 2
    curve = smooth(ALPHAS, values, np.zeros((11, 11)), ALPHAS)
    np.testing.assert_allclose(curve.expected, values, atol=1e-3)
    assert curve.error.max() < 3e-3


def test_equal_values_give_a_flat_curve_and_the_unit_does_not_matter() -> None:
    flat = smooth(ALPHAS, np.full(11, 0.3), np.full((11, 11), 0.04), [0.0, 0.25])
    assert flat.expected == pytest.approx([0.3, 0.3])
    assert flat.error == pytest.approx([0.2, 0.2])
    random = np.random.default_rng(2)
    values, noise = random.normal(size=11), np.diag(random.uniform(0.5, 1.0, 11))
    one, other = smooth(ALPHAS, values, noise, ALPHAS), smooth(ALPHAS, 5.0 - 100.0 * values, 1e4 * noise, ALPHAS)
    np.testing.assert_allclose(other.expected, 5.0 - 100.0 * one.expected, rtol=1e-6)
    np.testing.assert_allclose(other.error, 100.0 * one.error, rtol=1e-6)


def test_what_all_points_share_moves_the_level_alone() -> None:
    random = np.random.default_rng(3)
    values, noise = random.normal(size=11), np.diag(random.uniform(0.5, 1.0, 11))
    one, other = (smooth(ALPHAS, values, noise + shared, ALPHAS) for shared in (0.0, 7.0))
    np.testing.assert_allclose(other.expected, one.expected, atol=1e-6)
    assert (other.error > one.error).all()


def test_roughness_is_the_variance_of_independent_noise_and_nothing_of_a_line() -> None:
    alphas = np.array([0.0, 0.1, 0.3, 0.6, 1.0])
    assert roughness(alphas, 0.3 * np.eye(5)) == pytest.approx(0.3)
    line = np.stack([np.ones(5), alphas])
    assert roughness(alphas, 2.0 * line.T @ line) == pytest.approx(0.0, abs=1e-12)
    assert roughness(alphas, 0.3 * np.eye(5) + 2.0 * line.T @ line) == pytest.approx(0.3)


def simulated(random: np.random.Generator, truth: np.ndarray, rows: int) -> np.ndarray:
    """Return which rows are right at each alpha: a row's margin moves smoothly, and the share that is right is true."""
    from scipy.stats import norm

    level, slope, sine, cosine = random.standard_normal((4, rows, 1))
    margins = level + 0.5 * slope * (ALPHAS - 0.5) + 0.3 * (sine * np.sin(7 * ALPHAS) + cosine * np.cos(7 * ALPHAS))
    spread = np.sqrt(1.09 + 0.25 * (ALPHAS - 0.5) ** 2)
    return (margins / spread < norm.ppf(truth)).astype(float)


def test_intervals_hold_the_truth_and_the_choice_costs_less_where_the_truth_is_smooth() -> None:
    random = np.random.default_rng(4)
    held, plain, chosen = [], [], []
    for truth in (0.6 + 0.1 * ALPHAS, 0.7 - 0.1 * ALPHAS**2, 0.6 + 0.1 * (1.0 - np.exp(-5.0 * ALPHAS))):
        for _ in range(20):
            right = simulated(random, truth, 271)
            values, noise = right.mean(axis=0), np.cov(right.T) / len(right)
            curve = smooth(ALPHAS, values, noise, ALPHAS)
            held.append(np.abs(curve.expected - truth) < 1.96 * curve.error)
            plain.append(truth.max() - truth[values.argmax()])
            chosen.append(truth.max() - truth[curve.expected.round(12).argmax()])
    assert 0.85 < np.mean(held) <= 1.0
    assert np.mean(chosen) < np.mean(plain)
