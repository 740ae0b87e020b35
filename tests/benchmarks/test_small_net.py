"""The small net of the evidence: its rows are what they claim to be, and the product's stages train it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.stats import entropy

from benchmarks.evidence.digits import digits, letters, permuted
from benchmarks.evidence.razor import _kl
from benchmarks.evidence.small_net import Bench, answers, net_of, right
from ftlib.merging.candidates import Candidate


def test_a_permuted_task_has_the_same_pixels_in_one_other_order() -> None:
    images, _ = digits()
    moved = permuted(images, 3)
    np.testing.assert_array_equal(permuted(images, 0), images)
    np.testing.assert_array_equal(np.sort(moved.reshape(len(images), -1)), np.sort(images.reshape(len(images), -1)))
    one = np.zeros((64, 8, 8))
    one.reshape(64, 64)[np.arange(64), np.arange(64)] = 1  # a lit pixel each: where it went is the order
    np.testing.assert_array_equal(np.sort(permuted(one, 3).reshape(64, 64).argmax(1)), np.arange(64))
    assert not np.array_equal(permuted(one, 3), permuted(one, 4))


def test_letters_are_a_function_of_their_seed_and_as_many_of_each() -> None:
    (first, labels), (again, _), (other, _) = letters(3, 0), letters(3, 0), letters(3, 1)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert np.bincount(labels).tolist() == [3] * 10
    np.testing.assert_allclose(first.max(axis=(1, 2)), 1)


def test_divergence_is_scipy_s() -> None:
    p, q = np.random.default_rng(0).dirichlet(np.ones(10), size=(2, 5))
    np.testing.assert_allclose(_kl(p, q), entropy(p, q, axis=1).mean())
    assert _kl(p, p) == 0


def test_stages_train_the_net_and_a_line_lies_between_its_ends(tmp_path: Path) -> None:
    images, labels = digits()
    bench = Bench(tmp_path, 0)
    data = bench.rows("digits", (images[:200], labels[:200]), (images[200:250], labels[200:250]))
    start = bench.random_net(hidden=16, layers=1)
    optimizer = {"learning_rate": 5e-3, "epochs": 8, "batch_size": 20}
    end = bench.tuned(start, data, optimizer)
    told = answers(net_of(end), images[:200])
    np.testing.assert_allclose(told.sum(1), 1)
    assert right(told, labels[:200]) > 0.8
    np.testing.assert_array_equal(answers(net_of(Candidate.between(start, end, 1.0)), images[:200]), told)
    held = bench.tuned(end, data, {**optimizer, "epochs": 1}, penalty={"kind": "l2_sp", "alpha": 1e6})
    freely = bench.tuned(end, data, {**optimizer, "epochs": 1})
    gone = [float(np.abs(answers(net_of(one), images) - answers(net_of(end), images)).max()) for one in (held, freely)]
    assert gone[0] < gone[1]
    kept = bench.tuned(
        end, data, {**optimizer, "epochs": 1}, keeping=[data], penalty={"kind": "ewc", "strength": 10.0, "rows": 5}
    )
    assert kept.weights != freely.weights
