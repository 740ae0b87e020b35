"""What is between two models: the barrier by hand, the divergence against scipy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import scipy.stats

from ftlib.errors import DataError
from ftlib.evaluation.bootstrap import Resampling
from ftlib.evaluation.results import divergence
from ftlib.kinds.outcomes import LabelOutcomes
from ftlib.report.diagnosis import Moved, barrier, loss_path, moved


def answers(seed: int, rows: int = 300, labels: int = 4) -> LabelOutcomes:
    random = np.random.default_rng(seed)
    probabilities = random.dirichlet(np.ones(labels) * 0.5, rows)
    gold = np.random.default_rng(9).integers(0, labels, rows)
    return LabelOutcomes(
        row_ids=tuple(map(str, range(rows))),
        nll=-np.log(probabilities[np.arange(rows), gold]),
        targets=np.ones(rows, np.int64),
        labels=tuple("abcdefgh"[:labels]),
        gold=gold,
        predicted=probabilities.argmax(axis=1),
        probabilities=probabilities,
    )


def test_a_barrier_is_what_stands_above_the_chord() -> None:
    assert barrier([0.0, 0.25, 1.0], [1.0, 2.0, 3.0]) == pytest.approx(0.5)
    assert barrier([0.0, 0.5, 1.0], [1.0, 0.5, 1.0]) == 0.0


def test_equal_losses_are_one_line_with_both_names(tmp_path: Path) -> None:
    alphas, losses = [0.0, 0.5, 1.0], {"fit": [3.0, 2.0, 1.0], "answers": [3.0, 2.0, 1.0], "prose": [3.0, 2.01, 1.0]}
    figure = loss_path(tmp_path, alphas, losses)
    words = "".join(ElementTree.fromstring(figure.svg).itertext())
    assert "fit and answers" in words
    assert "prose" in words
    assert all(f"{name} 0.0" in figure.caption for name in losses)


def test_what_a_loss_of_scores_is_stands_below_it(tmp_path: Path) -> None:
    of_labels, of_scores = (loss_path(tmp_path, [0.0, 1.0], {"a": [1.0, 2.0]}, of_scores=x) for x in (False, True))
    constant = f"half the squared error + {-scipy.stats.norm.logpdf(0):.3f}"
    assert constant in of_scores.caption
    assert constant not in of_labels.caption


def test_a_layer_that_did_not_move_has_no_share_that_survives(tmp_path: Path) -> None:
    shown = {survives: moved(tmp_path, [Moved("head", 0.0, survives)], 0.5).svg for survives in (None, 1.0)}
    words = {survives: "".join(ElementTree.fromstring(svg).itertext()) for survives, svg in shown.items()}
    assert "did not move" in words[None]
    assert "did not move" not in words[1.0]


def test_a_divergence_is_the_mean_of_scipy_s() -> None:
    base, tuned = answers(0), answers(1)
    got, _ = divergence(base, tuned, Resampling(200, 0.95, 0))
    assert got.value == pytest.approx(scipy.stats.entropy(base.probabilities, tuned.probabilities, axis=1).mean())
    assert got.low < got.value < got.high
    assert divergence(base, base, Resampling(100, 0.95, 0))[0].value == 0.0
    sure = replace(tuned, probabilities=np.eye(4, dtype=np.float32)[tuned.predicted])
    assert np.isfinite(divergence(base, sure, Resampling(100, 0.95, 0))[0].value)
    with pytest.raises(DataError, match="same rows and labels"):
        divergence(base, answers(0, labels=3), Resampling(100, 0.95, 0))
