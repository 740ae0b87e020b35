"""Suspected labels: against the definition row by row, and on real digits whose labels were changed by hand."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict

from ftlib.evaluation.suspects import Suspect, as_csv, ranked, suspected, suspects
from ftlib.kinds.outcomes import LabelOutcomes


def table(p: np.ndarray, given: np.ndarray) -> LabelOutcomes:
    return LabelOutcomes(
        row_ids=tuple(f"row{i}" for i in range(len(p))),
        nll=-np.log(p[np.arange(len(p)), given].clip(1e-12)),
        targets=np.ones(len(p), np.int64),
        labels=tuple(f"label{j}" for j in range(p.shape[1])),
        gold=given,
        predicted=p.argmax(axis=1),
        probabilities=p.astype(np.float32),
    )


def by_definition(p: np.ndarray, given: np.ndarray) -> set[tuple[int, int]]:
    """Fill the confident joint in plain loops (Northcutt et al. 2021, equations 1 and 2), and read off its sides."""
    rows, labels = p.shape
    means = {j: [p[i][j] for i in range(rows) if given[i] == j] for j in range(labels)}
    thresholds = {j: sum(values) / len(values) for j, values in means.items() if values}
    joint: dict[tuple[int, int], set[int]] = {}
    for i in range(rows):
        reached = [j for j, least in thresholds.items() if p[i][j] >= least]
        if reached:
            joint.setdefault((int(given[i]), max(reached, key=lambda j, i=i: p[i][j])), set()).add(i)
    off_diagonal = {(i, j) for (of, j), members in joint.items() if of != j for i in members}
    return {(i, j) for i, j in off_diagonal if p[i].argmax() != given[i]}


@pytest.mark.parametrize("seed", range(8))
def test_what_is_suspected_is_off_the_confident_joints_diagonal(seed: int) -> None:
    random = np.random.default_rng(seed)
    p = random.dirichlet(np.full(5, 0.5), 200).astype(np.float32).astype(np.float64)
    given = np.where(random.random(200) < 0.7, p.argmax(axis=1), random.integers(0, 4, 200))  # label 4 is rare
    which, likelier = suspected(table(p, given))
    assert {*zip(which.tolist(), likelier.tolist(), strict=True)} == by_definition(p, given)
    margins = p[which, given[which]] - p[which, likelier]
    assert (np.diff(margins) >= 0).all()
    assert len(which)


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return held-out answers to 1,797 scanned digits, labels of which 5 % are another digit, and which those are."""
    pixels, truth = load_digits(return_X_y=True)
    random = np.random.default_rng(0)
    wrong = random.random(len(truth)) < 0.05
    given = np.where(wrong, (truth + random.integers(1, 10, len(truth))) % 10, truth)
    model = LogisticRegression(C=0.05, max_iter=300)
    return cross_val_predict(model, pixels / 16, given, cv=3, method="predict_proba"), given, wrong


def test_planted_wrong_labels_are_found_again(digits: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    p, given, wrong = digits
    which, _ = suspected(table(p, given))
    hits = wrong[which]
    assert hits.mean() >= 0.7, "precision"
    assert hits.sum() / wrong.sum() >= 0.55, "recall"
    first = hits[: wrong.sum() // 2]
    assert first.mean() >= 0.97, "the surest half is nearly all wrong"


def test_right_labels_are_seldom_suspected(digits: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    p, given, wrong = digits
    which, _ = suspected(table(p[~wrong], given[~wrong]))
    assert len(which) / (~wrong).sum() < 0.03


def test_a_row_of_two_tables_is_told_once_as_it_is_surest() -> None:
    p = np.array([[0.9, 0.1], [0.8, 0.2], [0.2, 0.8], [0.9, 0.1]])
    less = np.array([[0.9, 0.1], [0.8, 0.2], [0.2, 0.8], [0.86, 0.14]])
    given = np.array([0, 0, 1, 1])
    found = ranked([*suspects("rows", "test", table(less, given)), *suspects("rows", "test", table(p, given))])
    assert [(one.row_id, one.given, one.likelier, one.p_likelier) for one in found] == [
        ("row3", "label1", "label0", 0.9)
    ]


def test_the_list_as_a_file() -> None:
    one = Suspect(dataset="rows", split="test", row_id="a1", given="-1", likelier="b,c", p_given=0.1, p_likelier=0.9)
    told = [*csv.DictReader(io.StringIO(as_csv({"router@3": [one]}).decode()))]
    assert told == [
        {
            **{"model": "router@3", "rank": "1", "dataset": "rows", "split": "test", "row_id": "a1"},
            **{"given": "-1", "likelier": "b,c", "p_given": "0.1", "p_likelier": "0.9"},
        }
    ]
    assert as_csv({}).decode() == "model,rank,dataset,split,row_id,given,likelier,p_given,p_likelier\n"


def test_no_rows_have_no_suspects() -> None:
    assert suspects("rows", "test", table(np.zeros((0, 2)), np.zeros(0, np.int64))) == []
