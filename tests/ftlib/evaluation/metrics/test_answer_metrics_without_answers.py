"""Where a question may have no answer, metrics equal SQuAD 2.0's official script, and answers transformers' run_qa."""

from __future__ import annotations

import collections
import re
import string
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftlib.evaluation.metrics import AnswerExactMatch, AnswerF1
from ftlib.evaluation.metrics.answer_scores import AnswerScore
from ftlib.kinds.outcomes import SpanOutcomes, joined
from ftlib.kinds.outcomes_file import parse_outcomes, read_outcomes

# What follows is evaluate-v2.0.py of https://rajpurkar.github.io/SQuAD-explorer, in its own words.


def normalize_answer(s):
    """Lower text and remove punctuation, articles and extra whitespace."""

    def remove_articles(text):
        regex = re.compile(r"\b(a|an|the)\b", re.UNICODE)
        return re.sub(regex, " ", text)

    def white_space_fix(text):
        return " ".join(text.split())

    def remove_punc(text):
        exclude = set(string.punctuation)
        return "".join(ch for ch in text if ch not in exclude)

    def lower(text):
        return text.lower()

    return white_space_fix(remove_articles(remove_punc(lower(s))))


def get_tokens(s):
    if not s:
        return []
    return normalize_answer(s).split()


def compute_exact(a_gold, a_pred):
    return int(normalize_answer(a_gold) == normalize_answer(a_pred))


def compute_f1(a_gold, a_pred):
    gold_toks = get_tokens(a_gold)
    pred_toks = get_tokens(a_pred)
    common = collections.Counter(gold_toks) & collections.Counter(pred_toks)
    num_same = sum(common.values())
    if len(gold_toks) == 0 or len(pred_toks) == 0:
        # If either is no-answer, then F1 is 1 if they agree, 0 otherwise
        return int(gold_toks == pred_toks)
    if num_same == 0:
        return 0
    precision = 1.0 * num_same / len(pred_toks)
    recall = 1.0 * num_same / len(gold_toks)
    return (2 * precision * recall) / (precision + recall)


def get_raw_score(compute, answers, a_pred):
    gold_answers = [a for a in answers if normalize_answer(a)]
    if not gold_answers:
        # For unanswerable questions, only correct answer is empty string
        gold_answers = [""]
    return max(compute(a, a_pred) for a in gold_answers)


OFFICIAL = {"answer_exact_match": compute_exact, "answer_f1": compute_f1}


def postprocess(windows, null_score_diff_threshold):
    """Say what transformers' run_qa does with version_2_with_negative, of (text, score, null score) for each window."""
    null_score = min(null for _, _, null in windows)
    text, score, _ = max(windows, key=lambda window: window[1])
    return "" if null_score - score > null_score_diff_threshold else text


TEXT = st.text(st.sampled_from("aA an the The New York, newyork-1.5 é\t"), max_size=14)
SCORE = st.integers(-3, 3).map(float)
QUESTION = st.tuples(st.lists(st.tuples(TEXT, SCORE, SCORE), min_size=1, max_size=3), st.lists(TEXT, max_size=3))
QUESTIONS = st.lists(QUESTION, min_size=1, max_size=8)


def table_of(questions: list[tuple[list[tuple[str, float, float]], list[str]]]) -> SpanOutcomes:
    """Return the table as a model's head makes it: a row per window."""
    rows = [
        (f"q{i}" if len(windows) == 1 else f"q{i}-{j}", answers, *window)
        for i, (windows, answers) in enumerate(questions)
        for j, window in enumerate(windows)
    ]
    names, answers, texts, scores, null_scores = zip(*rows, strict=True)
    return SpanOutcomes(
        row_ids=names,
        nll=np.ones(len(rows)),
        targets=np.ones(len(rows), np.int64),
        answers=tuple(map(tuple, answers)),
        predicted=texts,
        scores=np.array(scores),
        null_scores=np.array(null_scores),
    )


METRICS = st.builds(
    lambda kind, threshold: kind(null_score_diff_threshold=threshold),
    st.sampled_from([AnswerExactMatch, AnswerF1]),
    st.sampled_from([-2.0, 0.0, 1.5]),
)


@settings(max_examples=200)
@given(QUESTIONS, METRICS, st.integers(0, 99))
def test_a_metric_and_its_resamples_equal_the_official_script(
    questions: list[tuple[list[tuple[str, float, float]], list[str]]], metric: AnswerScore, seed: int
) -> None:
    table = table_of(questions).by_example()
    assert len(table) == len(questions)
    each = np.array(
        [
            get_raw_score(OFFICIAL[metric.name], answers, postprocess(windows, metric.null_score_diff_threshold))
            for windows, answers in questions
        ],
        np.float64,
    )
    assert metric.compute(table) == pytest.approx(each.mean(), abs=1e-12)
    draws = np.random.default_rng(seed).integers(0, len(questions), (4, len(questions)))
    assert metric.resampled(table, draws) == pytest.approx(each[draws].mean(axis=1), abs=1e-12)
    if isinstance(metric, AnswerExactMatch):
        assert metric.right(table).tolist() == (each == 1).tolist()


def test_the_threshold_is_applied_to_the_table_that_is_there() -> None:
    table = table_of([([("york", 2.0, 1.0)], ["York"]), ([("york", 1.0, 2.0)], []), ([("york", 2.0, 1.5)], [])])
    scores = [AnswerF1(null_score_diff_threshold=at).compute(table) for at in (-9.0, -0.6, 0.0, 9.0)]
    assert scores == pytest.approx([2 / 3, 3 / 3, 2 / 3, 1 / 3])


def test_one_window_that_finds_something_is_enough_for_an_answer() -> None:
    """Each window says that its own part holds no answer: the least sure of them decides."""
    windows = [("not here", -4.0, 7.0), ("York", 3.0, -2.0), ("nor here", -5.0, 8.0)]
    assert AnswerExactMatch().compute(table_of([(windows, ["York"])]).by_example()) == 1.0
    silent = [(text, score, 7.0) for text, score, _ in windows]
    assert AnswerExactMatch().compute(table_of([(silent, ["York"])]).by_example()) == 0.0


def test_the_table_comes_back_from_its_file_and_joins(tmp_path: Path) -> None:
    table = table_of([([("a", 1.0, 2.0)], ["a"]), ([("b", 2.0, 1.0)], [])])
    (tmp_path / "table.parquet").write_bytes(table.to_parquet())
    back = read_outcomes(tmp_path / "table.parquet")
    assert isinstance(back, SpanOutcomes)
    assert back.null_scores is not None
    assert (back.null_scores.tolist(), back.answers) == ([2.0, 1.0], (("a",), ()))
    again = joined([table.take(np.array([i])) for i in range(2)])
    assert again.to_parquet() == table.to_parquet()
    assert isinstance(parse_outcomes(again.to_parquet()), SpanOutcomes)
