"""The small net of the evidence: its rows are what they claim to be, and the product's stages train it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import entropy

from benchmarks.evidence import razor, sequence
from benchmarks.evidence.digits import digits, letters, permuted
from benchmarks.evidence.row import read_rows
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
    np.testing.assert_allclose(razor.divergence(p, q), entropy(p, q, axis=1).mean())
    assert razor.divergence(p, p) == 0


@pytest.mark.slow
def test_stages_train_the_net_and_a_line_lies_between_its_ends(tmp_path: Path) -> None:
    images, labels = digits()
    bench = Bench(tmp_path, 0)
    data = bench.rows("digits", (images[:200], labels[:200]), (images[200:250], labels[200:250]))
    start = bench.random_net(hidden=16, layers=1)
    optimizer = {"learning_rate": 5e-3, "epochs": 8, "batch_size": 20}
    end = bench.tuned(start, data, optimizer)
    told = answers(net_of(end), images[:200])
    np.testing.assert_allclose(told.sum(1), 1)
    assert right(told, labels[:200]) > 0.5  # of ten labels
    np.testing.assert_array_equal(answers(net_of(Candidate.between(start, end, 1.0)), images[:200]), told)
    held = bench.tuned(end, data, {**optimizer, "epochs": 1}, penalty={"kind": "l2_sp", "alpha": 1e6})
    freely = bench.tuned(end, data, {**optimizer, "epochs": 1})
    gone = [float(np.abs(answers(net_of(one), images) - answers(net_of(end), images)).max()) for one in (held, freely)]
    assert gone[0] < gone[1]
    kept = bench.tuned(
        end, data, {**optimizer, "epochs": 1}, keeping=[data], penalty={"kind": "ewc", "strength": 10.0, "rows": 5}
    )
    assert kept.weights != freely.weights


@pytest.mark.slow
def test_every_way_of_keeping_tasks_is_measured(tmp_path: Path) -> None:
    ways = read_rows()["sequence"].settings["ways"]
    optimizer = {"learning_rate": 2e-3, "epochs": 1, "batch_size": 100}
    told: dict[str, Any] = {way: {**how, "rows": 3} if "by_hand" in how else how for way, how in ways.items()}
    told["ewc"] = {"penalty": {**told["ewc"]["penalty"], "rows": 3}}
    measured = sequence.measure(0, tmp_path, {"tasks": 2, "optimizer": optimizer, "ways": told})
    assert measured.arms.keys() == ways.keys()
    assert all(0 <= value <= 1 for arm in measured.arms.values() for value in arm.values())


@pytest.mark.slow
def test_the_razor_measures_each_point_of_each_way(tmp_path: Path) -> None:
    settings = {
        "start": {"learning_rate": 2e-3, "epochs": 1, "batch_size": 100},
        "tune": {"epochs": 1, "batch_size": 200},
        **{"rates": [1e-5, 1e-3], "alphas": [0.5], "policy_rates": [1e-3], "policy_steps": 3},
    }
    measured = razor.measure(0, tmp_path, settings)
    assert measured.arms.keys() == {"start", "policy", *razor.CHOICES}
    assert len(measured.points) == 3 * 2 * 2 + 3
    far = {point.what: point.x for point in measured.points}
    for choice in razor.CHOICES:
        ends = {one.what: one.x for one in measured.points if one.series == f"{choice} labels"}
        assert 0 < ends["rate 1e-05"] < ends["rate 0.001"]
        for rate, end in ends.items():
            assert far[f"{choice} labels, {rate}, alpha 0.5"] < end
