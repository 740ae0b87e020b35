"""Answer metrics equal SQuAD's official script, over all rows and on every resample."""

from __future__ import annotations

import re
import string
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftlib.evaluation.metrics import AnswerExactMatch, AnswerF1
from ftlib.kinds.outcomes import SpanOutcomes
from ftlib.kinds.outcomes_file import read_outcomes

# What follows is evaluate-v1.1.py of https://rajpurkar.github.io/SQuAD-explorer, in its own words.


def normalize_answer(s):
    """Lower text and remove punctuation, articles and extra whitespace."""

    def remove_articles(text):
        return re.sub(r"\b(a|an|the)\b", " ", text)

    def white_space_fix(text):
        return " ".join(text.split())

    def remove_punc(text):
        exclude = set(string.punctuation)
        return "".join(ch for ch in text if ch not in exclude)

    def lower(text):
        return text.lower()

    return white_space_fix(remove_articles(remove_punc(lower(s))))


def f1_score(prediction, ground_truth):
    prediction_tokens = normalize_answer(prediction).split()
    ground_truth_tokens = normalize_answer(ground_truth).split()
    common = Counter(prediction_tokens) & Counter(ground_truth_tokens)
    num_same = sum(common.values())
    if num_same == 0:
        return 0
    precision = 1.0 * num_same / len(prediction_tokens)
    recall = 1.0 * num_same / len(ground_truth_tokens)
    return (2 * precision * recall) / (precision + recall)


def exact_match_score(prediction, ground_truth):
    return normalize_answer(prediction) == normalize_answer(ground_truth)


def metric_max_over_ground_truths(metric_fn, prediction, ground_truths):
    return max(metric_fn(prediction, ground_truth) for ground_truth in ground_truths)


OFFICIAL = {"answer_exact_match": exact_match_score, "answer_f1": f1_score}
TEXT = st.text(st.sampled_from("aA an the The New York, newyork-1.5 é\t"), max_size=14)
ROWS = st.lists(st.tuples(TEXT, st.lists(TEXT, min_size=1, max_size=3)), min_size=1, max_size=8)


def outcomes(rows: list[tuple[str, list[str]]], names: list[str] | None = None) -> SpanOutcomes:
    return SpanOutcomes(
        row_ids=tuple(names or map(str, range(len(rows)))),
        nll=np.arange(len(rows), dtype=np.float64),
        targets=np.ones(len(rows), np.int64),
        answers=tuple(tuple(answers) for _, answers in rows),
        predicted=tuple(said for said, _ in rows),
        scores=np.array([len(said) for said, _ in rows], np.float64),
    )


@settings(max_examples=150)
@given(ROWS, st.sampled_from([AnswerExactMatch(), AnswerF1()]), st.integers(0, 99))
def test_a_metric_and_its_resamples_equal_the_official_script(
    rows: list[tuple[str, list[str]]], metric: AnswerExactMatch | AnswerF1, seed: int
) -> None:
    table = outcomes(rows)
    each = [metric_max_over_ground_truths(OFFICIAL[metric.kind], *row) for row in rows]
    assert metric.compute(table) == pytest.approx(np.mean(each), abs=1e-12)
    draws = np.random.default_rng(seed).integers(0, len(rows), (4, len(rows)))
    assert metric.resampled(table, draws) == pytest.approx(np.mean(np.array(each, float)[draws], axis=1), abs=1e-12)


def test_right_rows_are_what_mcnemar_compares() -> None:
    table = outcomes([("the Invoice!", ["invoice"]), ("invoices", ["invoice", "bill"])])
    assert AnswerExactMatch().right(table).tolist() == [True, False]
    assert AnswerF1().right(table) is None


def test_the_window_with_the_highest_score_answers_and_the_table_comes_back_from_its_file(tmp_path: Path) -> None:
    rows = [("no", ["x"]), ("longer", ["x"]), ("one", ["y"]), ("b", ["z"]), ("bb", ["z"])]
    table = outcomes(rows, ["p-0", "p-1", "q", "r-0", "r-1"])
    found = table.by_example()
    assert found.row_ids == ("p", "q", "r")
    assert found.predicted == ("longer", "one", "bb")
    assert found.answers == (("x",), ("y",), ("z",))
    assert found.nll.tolist() == [1.0, 2.0, 7.0]
    assert found.targets.tolist() == [2, 1, 2]
    (tmp_path / "table.parquet").write_bytes(found.to_parquet())
    back = read_outcomes(tmp_path / "table.parquet")
    assert isinstance(back, SpanOutcomes)
    assert (back.row_ids, back.predicted, back.answers) == (found.row_ids, found.predicted, found.answers)
    assert back.scores.tolist() == [6.0, 3.0, 2.0]
