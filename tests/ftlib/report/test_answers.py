"""What the report draws and lists of a model's answers, against scikit-learn, pandas and nervaluate, and by hand."""

from __future__ import annotations

import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import sklearn.calibration
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from nervaluate import Evaluator

from ftlib.data.iob2 import entities
from ftlib.evaluation.bootstrap import Resampling, estimates
from ftlib.evaluation.evaluation import Evaluation
from ftlib.evaluation.metrics import F1, AnswerExactMatch, AnswerF1, EntityF1, Precision, Recall
from ftlib.evaluation.results import number
from ftlib.kinds.outcomes import (
    LabelOutcomes,
    MultiLabelOutcomes,
    Outcomes,
    ScoreOutcomes,
    SpanOutcomes,
    TaggedOutcomes,
)
from ftlib.report.answers import answer_figures, answer_tables
from ftlib.report.calibration import BINS, reliability
from ftlib.report.confusion import LARGEST, NOTHING, confusion, confusion_matrix, entity_confusion
from ftlib.report.content import Table
from ftlib.report.label_tables import LONGEST, label_scores, label_table
from ftlib.report.regression import DOTS, means
from ftlib.report.threshold_table import best_threshold, threshold_table

RESAMPLING = Resampling(100, 0.95, 0)
EVALUATION = Evaluation(dataset="rows", metrics=(AnswerF1(), AnswerExactMatch()), resamples=100)
TAGS = ("B-LOC", "B-PER", "I-LOC", "I-PER", "O")


def common(rows: int) -> dict[str, Any]:
    ones = np.ones(rows, np.int64)
    return {"row_ids": tuple(map(str, range(rows))), "nll": ones.astype(np.float64), "targets": ones}


def labelled(rows: int = 300, labels: int = 4, seed: int = 0, *, gold: int | None = None) -> LabelOutcomes:
    random = np.random.default_rng(seed)
    probabilities = random.dirichlet(np.ones(labels) * 0.5, rows).astype(np.float32)
    return LabelOutcomes(
        **common(rows),
        labels=tuple(f"label {i}" for i in range(labels)),
        gold=random.integers(0, labels, rows) if gold is None else np.full(rows, gold),
        predicted=probabilities.argmax(axis=1),
        probabilities=probabilities,
    )


def several(rows: int = 200, labels: int = 5, seed: int = 0) -> MultiLabelOutcomes:
    random = np.random.default_rng(seed)
    probabilities = random.random((rows, labels)).astype(np.float32) ** np.arange(1, labels + 1)
    return MultiLabelOutcomes(
        **common(rows),
        labels=tuple(f"label {i}" for i in range(labels)),
        gold=random.random((rows, labels)) < probabilities,
        probabilities=probabilities,
    )


def scored(rows: int = 300, seed: int = 0) -> ScoreOutcomes:
    random = np.random.default_rng(seed)
    gold = random.normal(0, 1, rows)
    return ScoreOutcomes(**common(rows), gold=gold, predicted=0.5 * gold + random.normal(1, 0.5, rows))


def tagged(rows: int = 60, seed: int = 0) -> TaggedOutcomes:
    random = np.random.default_rng(seed)
    gold = tuple(tuple(map(str, random.choice(TAGS, random.integers(1, 9)))) for _ in range(rows))
    said = tuple(tuple(tag if random.random() < 0.6 else str(random.choice(TAGS)) for tag in row) for row in gold)
    return TaggedOutcomes(**common(rows), labels=TAGS, gold=gold, predicted=said)


def column(table: Table | None, name: str) -> list[str]:
    assert table is not None
    return [row.cells[list(table.columns).index(name)].text for row in table.rows]


def test_calibration_of_one_label_is_scikit_learn_s_curve() -> None:
    table = labelled()
    bins = reliability(table)
    right = table.gold == table.predicted
    expected = sklearn.calibration.calibration_curve(right, table.probabilities.max(axis=1), n_bins=BINS)
    np.testing.assert_allclose((bins.true, bins.said), expected, rtol=1e-6)
    assert bins.held.sum() == len(table)
    np.testing.assert_allclose(bins.error, np.sqrt(bins.true * (1 - bins.true) / bins.held), atol=1e-12)


def test_calibration_of_several_labels_is_scikit_learn_s_curve_of_every_yes_and_no() -> None:
    table = several()
    bins = reliability(table)
    expected = sklearn.calibration.calibration_curve(table.gold.ravel(), table.probabilities.ravel(), n_bins=BINS)
    np.testing.assert_allclose((bins.true, bins.said), expected, rtol=1e-6)
    assert bins.held.sum() == table.gold.size


def test_answers_that_repeat_each_other_are_no_more_certain() -> None:
    """Five columns that are copies of one hold no more than the one: the standard error must not shrink."""
    one = several(labels=1)
    copies = MultiLabelOutcomes(
        **common(len(one)),
        labels=tuple("abcde"),
        gold=one.gold.repeat(5, 1),
        probabilities=one.probabilities.repeat(5, 1),
    )
    np.testing.assert_allclose(reliability(copies).error, reliability(one).error)
    assert (reliability(copies).held == 5 * reliability(one).held).all()


def test_means_of_scores_are_pandas_of_tenths_of_the_rows() -> None:
    table = scored()
    bins = means(table)
    frame = pd.DataFrame({"said": table.predicted, "gold": table.gold})
    tenths = frame.groupby(pd.qcut(frame.said, 10), observed=True)
    np.testing.assert_allclose(bins.said, tenths.said.mean())
    np.testing.assert_allclose(bins.true, tenths.gold.mean())
    np.testing.assert_allclose(bins.error, tenths.gold.sem())


def test_means_of_few_rows_and_of_equal_answers() -> None:
    one = means(scored(1))
    assert (len(one.said), one.error.tolist()) == (1, [0.0])
    assert len(means(scored(12)).said) == 2
    table = scored(100)
    same = means(ScoreOutcomes(**common(100), gold=table.gold, predicted=np.full(100, 2.0)))
    assert same.said.tolist() == [2.0]
    assert same.true == pytest.approx([table.gold.mean()])
    two = means(ScoreOutcomes(**common(100), gold=table.gold, predicted=np.repeat([1.0, 3.0], [95, 5])))
    assert two.said.tolist() == [1.0, 3.0]
    assert two.true[1] == pytest.approx(table.gold[95:].mean())


def test_confusion_is_scikit_learn_s_matrix() -> None:
    table = labelled(seed=1)
    expected = sklearn.metrics.confusion_matrix(table.gold, table.predicted, labels=range(4))
    assert (confusion_matrix(table) == expected).all()


def test_confusion_of_entities_counts_places_and_its_diagonal_is_what_is_found() -> None:
    table = tagged()
    matrix, types = entity_confusion(table), (*table.entities.types, NOTHING)
    pairs: Counter[tuple[str, str]] = Counter()
    for gold, said in zip(table.gold, table.predicted, strict=True):
        for place in {(e.first, e.end) for e in (*entities(gold), *entities(said))}:
            names = [
                next((e.type for e in entities(tags) if (e.first, e.end) == place), NOTHING) for tags in (gold, said)
            ]
            pairs[names[0], names[1]] += 1
    assert {(types[i], types[j]): n for (i, j), n in np.ndenumerate(matrix) if n} == dict(pairs)
    found = Evaluator([*map(list, table.gold)], [*map(list, table.predicted)], tags=["LOC", "PER"], loader="list")
    strict = {type: scores["strict"] for type, scores in found.evaluate()["entities"].items()}
    assert matrix.diagonal().tolist() == [*(strict[type].correct for type in table.entities.types), 0]
    assert matrix.sum(axis=1)[:-1].tolist() == [strict[type].possible for type in table.entities.types]
    assert matrix.sum(axis=0)[:-1].tolist() == [strict[type].actual for type in table.entities.types]


@settings(max_examples=20)
@given(st.integers(1, 30), st.integers(2, 5), st.integers(0, 99), st.sampled_from([labelled, several]))
def test_a_table_s_scores_are_scikit_learn_s(rows: int, labels: int, seed: int, make: Any) -> None:
    table = make(rows, labels, seed)
    if isinstance(table, LabelOutcomes):
        gold, said = np.eye(labels, dtype=bool)[table.gold], np.eye(labels, dtype=bool)[table.predicted]
    else:
        gold, said = table.gold, table.probabilities >= 0.5
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sklearn.exceptions.UndefinedMetricWarning)
        scores: Any = sklearn.metrics.precision_recall_fscore_support(gold, said, zero_division=np.nan)
    listed = label_table("target", table, RESAMPLING)
    if not (gold.any() or said.any()):
        assert listed is None
        return
    there = column(listed, "label")
    assert sorted(there) == [name for i, name in enumerate(table.labels) if gold[:, i].any() or said[:, i].any()]
    for name, values in zip(("precision", "recall", "F1", "rows"), scores, strict=True):
        expected = dict(zip(table.labels, np.atleast_1d(values), strict=True))
        if name != "rows":  # a label that no row has cannot be found, so nothing of it is measured
            expected |= {label: np.nan for label, rows in zip(table.labels, gold.T, strict=True) if not rows.any()}
        texts = [f"{expected[label]:,}" if name == "rows" else number(expected[label]) for label in there]
        assert column(listed, name) == texts
    order = [dict(zip(table.labels, scores[2], strict=True))[label] for label in there]
    assert order == sorted(order)


def test_a_table_s_intervals_are_those_of_the_metrics() -> None:
    for table, names in ((several(), ("label 1",)), (labelled(), ("label 3",)), (tagged(), ("PER",))):
        found = label_scores(table, RESAMPLING)
        for name in names:
            if isinstance(table, TaggedOutcomes):
                metric, place = EntityF1(type=name), table.entities.types.index(name)
                assert found["f1"][place] == estimates(table, [metric], RESAMPLING)[metric.name]
                continue
            for score, kind in (("precision", Precision), ("recall", Recall), ("f1", F1)):
                metric = kind(label=name)
                assert found[score][table.labels.index(name)] == estimates(table, [metric], RESAMPLING)[metric.name]


def test_a_table_of_types_is_nervaluate_s() -> None:
    table = tagged()
    listed = label_table("news", table, RESAMPLING)
    found = Evaluator([*map(list, table.gold)], [*map(list, table.predicted)], tags=["LOC", "PER"], loader="list")
    strict = found.evaluate()["entities"]
    for i, type in enumerate(column(listed, "type")):
        scores = strict[type]["strict"]
        assert column(listed, "entities")[i] == str(scores.possible)
        assert column(listed, "answers")[i] == str(scores.actual)
        for name in ("precision", "recall", "F1"):
            assert column(listed, name)[i] == number(getattr(scores, name.lower()))


def test_of_many_labels_the_worst_are_listed_and_no_matrix_is_drawn(tmp_path: Path) -> None:
    table = labelled(600, LONGEST + 10)
    listed = label_table("target", table, RESAMPLING)
    assert listed is not None
    assert len(listed.rows) == LONGEST
    assert "the 50 worst of 60 by F1" in listed.caption
    assert confusion(tmp_path, "target", table) is None
    assert confusion(tmp_path, "target", labelled(50, LARGEST)) is not None


ODD: dict[str, Outcomes] = {
    "one row": labelled(1),
    "one label in the rows": labelled(20, gold=2),
    "forty labels": labelled(90, 40),
    "one row of several": several(1),
    "no row has a label": MultiLabelOutcomes(
        **common(9), labels=("a", "b"), gold=np.zeros((9, 2), np.bool_), probabilities=np.full((9, 2), 0.5, np.float32)
    ),
    "one score": scored(1),
    "many scores": scored(DOTS + 1),
    "equal answers": ScoreOutcomes(**common(DOTS + 1), gold=np.zeros(DOTS + 1), predicted=np.zeros(DOTS + 1)),
    "nothing is named": TaggedOutcomes(**common(1), labels=TAGS, gold=(("O", "O"),), predicted=(("O", "O"),)),
    "markup $x_1$ <b>": scored(7),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_tables_are_drawn_without_a_warning_and_without_nan(name: str, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures = answer_figures(tmp_path, {name: ODD[name]})
        tables = answer_tables({name: ODD[name]}, {name: ODD[name]}, {name: EVALUATION}, seed=0)
    assert bool(figures) != (name == "nothing is named")
    for figure in figures:
        words = "".join(ElementTree.fromstring(figure.svg).itertext())
        assert "nan" not in (words + figure.caption).lower().replace(name, "")
        assert figure.name == "confusion" or name in words
    assert "nan" not in str(tables)
    assert bool(tables) != (isinstance(ODD[name], ScoreOutcomes) or name == "nothing is named")


def test_more_than_three_evaluations_are_drawn_below_each_other(tmp_path: Path) -> None:
    (figure,) = answer_figures(tmp_path, {f"away {i}": scored(30, i) for i in range(4)})
    width, height = (
        float(str(ElementTree.fromstring(figure.svg).get(side)).removesuffix("pt")) for side in ("width", "height")
    )
    assert height > width / 2
    assert all(f"away {i}" in figure.caption for i in range(4))


def test_questions_are_listed_by_whether_they_have_an_answer() -> None:
    table = SpanOutcomes(
        **common(5),
        answers=(("york",), ("new york",), ("york",), (), ()),
        predicted=("york", "york", "bath", "york", "york"),
        scores=np.zeros(5),
        null_scores=np.array([-1.0, -1.0, 1.0, 1.0, -1.0]),
    )
    (listed,) = answer_tables({"home": table}, {}, {"home": EVALUATION}, seed=0)
    assert column(listed, "questions") == ["with an answer", "without"]
    assert column(listed, "rows") == ["3", "2"]
    assert column(listed, "no answer") == ["1", "1"]
    assert column(listed, "answer f1") == [number((1 + 2 / 3 + 0) / 3), number(1 / 2)]
    assert column(listed, "answer exact match") == [number(1 / 3), number(1 / 2)]
    answerable = table.take(np.arange(3))
    (listed,) = answer_tables({"home": answerable}, {}, {"home": EVALUATION}, seed=0)
    assert column(listed, "questions") == ["with an answer"]
    assert answer_tables({"home": replace(answerable, null_scores=None)}, {}, {"home": EVALUATION}, seed=0) == []


@settings(max_examples=30)
@given(st.integers(1, 30), st.integers(2, 5), st.integers(0, 99), st.sampled_from([1, 6]))
def test_the_best_threshold_is_the_best_of_scikit_learn_s_curve(rows: int, labels: int, seed: int, steps: int) -> None:
    table = several(rows, labels, seed)
    if steps > 1:  # many equal probabilities
        table = replace(table, probabilities=np.round(table.probabilities * steps) / np.float32(steps))
    found = best_threshold(table)
    assert (found is None) == (not table.gold.any())
    if found is None:
        return
    curve = sklearn.metrics.precision_recall_curve(table.gold.ravel(), table.probabilities.ravel())
    precision, recall = curve[0], curve[1]
    best = np.max(2 * precision * recall / np.maximum(precision + recall, 1e-300))
    score = sklearn.metrics.f1_score(table.gold, table.probabilities >= found, average="micro")
    assert score == pytest.approx(best, abs=1e-12)


def test_a_threshold_is_chosen_on_validation_and_shown_on_both() -> None:
    validation, test = several(seed=1), several(seed=2)
    listed = threshold_table({"home": validation, "gone": validation}, {"home": test})
    assert column(listed, "evaluation") == ["home"]
    at = best_threshold(validation)
    assert at is not None
    for split, table in (("validation", validation), ("test", test)):
        for which, threshold in (("it", at), ("0.5", 0.5)):
            score = sklearn.metrics.f1_score(table.gold, table.probabilities >= threshold, average="micro")
            assert column(listed, f"{split}, with {which}") == [number(score)]
    assert threshold_table({}, {"home": test}) is None
