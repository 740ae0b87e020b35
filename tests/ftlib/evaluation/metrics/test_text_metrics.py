"""Metrics of generated text against the libraries' own scores, of all rows and of every draw."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from ftlib.errors import DataError
from ftlib.evaluation.metrics import BitsPerByte, Bleu, ChrF, ExactMatch, Metric, Perplexity, Rouge
from ftlib.kinds.outcomes import CompletionOutcomes
from ftlib.kinds.outcomes_file import read_outcomes

WORDS = ["the", "a", "cat", "sat", "on", "mat", "dog", "ran", "fast", "slow,", "and.", "Über", "naïve", "猫"]


def completions(rows: int, seed: int) -> CompletionOutcomes:
    """Return random texts in which some predictions are empty, some are right, most share words."""
    random = np.random.default_rng(seed)
    references = [" ".join(random.choice(WORDS, random.integers(1, 9))) for _ in range(rows)]
    predicted = [
        " ".join(word for word in text.split() if random.random() < keep) + (" the" if random.random() < 0.3 else "")
        for text, keep in zip(references, random.choice([0.0, 0.6, 1.0], rows), strict=True)
    ]
    targets = random.integers(1, 9, rows)
    return CompletionOutcomes(
        row_ids=tuple(map(str, range(rows))),
        nll=targets * random.gamma(2, 1, rows),
        targets=targets,
        target_bytes=targets * 3,
        references=tuple(references),
        predicted=tuple(predicted),
    )


def reference(metric: Metric, o: CompletionOutcomes) -> float:
    ours, gold = list(o.written()), list(o.references)
    if isinstance(metric, Rouge):
        letters = [[w for w in re.split("[^a-z0-9]+", text.lower()) if w] for text in gold]
        if max(map(len, letters)) < (2 if metric.variant == "rouge2" else 1):
            return math.nan
    match metric:
        case Bleu():
            return sacrebleu.corpus_bleu(ours, [gold], tokenize=metric.tokenize, lowercase=metric.lowercase).score
        case ChrF():
            return sacrebleu.corpus_chrf(ours, [gold], word_order=metric.word_order).score
        case Rouge():
            scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=metric.use_stemmer)
            found = [scorer.score(g, p)[metric.variant] for g, p in zip(gold, ours, strict=True)]
            return float(np.mean([score.fmeasure for score in found]))
        case ExactMatch():
            return float(np.mean([g.split() == p.split() for g, p in zip(gold, ours, strict=True)]))
        case _:
            raise AssertionError(metric)


METRICS: tuple[Metric, ...] = (
    Bleu(),
    Bleu(tokenize="char", lowercase=True),
    ChrF(),
    ChrF(word_order=2),
    Rouge(variant="rouge1"),
    Rouge(variant="rouge2"),
    Rouge(use_stemmer=True),
    ExactMatch(),
)


@settings(max_examples=40)
@given(rows=st.integers(1, 25), seed=st.integers(0, 1000), which=st.sampled_from(METRICS))
def test_a_metric_and_its_resamples_equal_the_library(rows: int, seed: int, which: Metric) -> None:
    outcomes = completions(rows, seed)
    assert which.compute(outcomes) == pytest.approx(reference(which, outcomes), abs=1e-12, nan_ok=True)
    draws = np.random.default_rng(seed).integers(0, rows, (4, rows))
    expected = [reference(which, outcomes.take(draw)) for draw in draws]
    assert which.resampled(outcomes, draws) == pytest.approx(expected, abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("which", METRICS[:-1], ids=str)
def test_empty_references_define_no_score(which: Metric) -> None:
    some = completions(4, 1)
    empty = CompletionOutcomes(**{**vars(some), "references": ("", " ", "", "")})
    assert math.isnan(which.compute(empty))
    assert np.isnan(which.resampled(empty, np.array([[0, 1, 2, 3]]))).all()
    silent = CompletionOutcomes(**{**vars(some), "predicted": ("", "", "", "")})
    assert which.compute(silent) == 0.0


def test_what_reads_the_likelihood_of_tokens_reads_that_of_completions_too() -> None:
    outcomes = completions(9, 1)
    assert Perplexity().compute(outcomes) == pytest.approx(np.exp(outcomes.nll.sum() / outcomes.targets.sum()))
    bits = outcomes.nll.sum() / np.log(2)
    assert BitsPerByte().compute(outcomes) == pytest.approx(bits / outcomes.target_bytes.sum())


@pytest.mark.parametrize(
    ("options", "ours", "theirs", "same"),
    [
        ({}, "the  cat\n", " the cat", True),
        ({}, "The cat", "the cat", False),
        ({}, "nai\u0308ve", "naïve", True),
        ({"ignore_case": True}, "THE STRASSE", "the straße", True),
        ({}, "cat.", "cat", False),
        ({"ignore_punctuation": True}, "«the» cat.", "the cat", True),
    ],
)
def test_exact_match_folds_what_it_says(options: dict[str, bool], ours: str, theirs: str, same: bool) -> None:
    one = completions(1, 0).take(np.array([0]))
    one = CompletionOutcomes(**{**vars(one), "references": (theirs,), "predicted": (ours,)})
    assert ExactMatch(**options).right(one).tolist() == [same]


def test_signatures_are_the_libraries_own() -> None:
    sacre = sacrebleu.metrics.BLEU(lowercase=True)
    sacre.corpus_score(["a"], [["a"]])
    assert Bleu(lowercase=True).signature() == str(sacre.get_signature())
    assert "word_order" not in (ChrF().signature() or "")
    assert "nw:2" in str(ChrF(word_order=2).signature()) or "nword:2" in str(ChrF(word_order=2).signature())
    assert Rouge().signature() == "rougeL|f|stemmer:no|rouge-score:0.1.2"
    assert ExactMatch().signature() is None
    assert [metric.name for metric in METRICS[4:6]] == ["rouge1", "rouge2"]


def test_a_table_without_writing_says_so(tmp_path) -> None:
    silent = CompletionOutcomes(**{**vars(completions(3, 0)), "predicted": None})
    with pytest.raises(DataError, match="give the evaluation max_new_tokens"):
        ExactMatch().compute(silent)
    for table in (silent, completions(3, 0)):
        (tmp_path / "t.parquet").write_bytes(table.to_parquet())
        again = read_outcomes(tmp_path / "t.parquet")
        assert isinstance(again, CompletionOutcomes)
        assert (again.references, again.predicted) == (table.references, table.predicted)
        assert again.take(np.array([2, 0])).row_ids == ("2", "0")
