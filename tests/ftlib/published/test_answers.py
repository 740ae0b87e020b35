"""The profile of a version's own answers: counted as anybody would count, and as its live answers are."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from ftlib.answer_log.profile import AnswerProfile
from ftlib.data.prepared import split_file
from ftlib.errors import StorageError
from ftlib.kinds.outcomes import LabelOutcomes
from ftlib.published.answers import answer_profile, answers, count_tokens
from ftlib.published.loaded import LoadedVersion
from ftlib.published.own_tokens import OwnTokens
from ftlib.testing import LABELS, tiny_lm_tokenizer, tiny_prepared, tiny_rows, tiny_tokenizer
from tests.ftlib.stages.test_register import Run, published, pulled

ODD = ("refund 日 invoice", "ß", "a crash 日 本 today")


def table(rows: int = 200, seed: int = 0) -> LabelOutcomes:
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet([0.4] * len(LABELS), rows)
    return LabelOutcomes(
        row_ids=tuple(map(str, range(rows))),
        nll=np.zeros(rows),
        targets=np.ones(rows, np.int64),
        labels=LABELS,
        gold=rng.integers(0, len(LABELS), rows),
        predicted=probabilities.argmax(1),
        probabilities=probabilities,
    )


def test_answers_are_counted_row_by_row() -> None:
    outcomes = table()
    profile = answer_profile(outcomes)
    said = [LABELS[i] for i in outcomes.predicted]
    assert profile.rows == 200
    assert profile.right == sum(label == LABELS[i] for label, i in zip(said, outcomes.gold, strict=True))
    assert profile.labels == Counter(said)
    hundredths = Counter(int(100 * row[i]) for row, i in zip(outcomes.probabilities, outcomes.predicted, strict=True))
    assert profile.confidence == hundredths
    assert [*profile.confidence] == sorted(hundredths)


def test_no_rows_are_no_answers_and_a_label_that_is_never_said_is_counted() -> None:
    empty = answer_profile(table(0))
    assert (empty.rows, empty.right, empty.confidence) == (0, 0, {})
    assert empty.labels == dict.fromkeys(LABELS, 0)


def test_tokens_are_those_that_stock_transformers_gives_a_bare_text(tmp_path: Path) -> None:
    texts = [*(str(row["text"]) for row in tiny_rows(20)), *ODD]
    tokenizer: Any = tiny_tokenizer()
    prepared = tiny_prepared(tmp_path, {"test": [{"text": text, "label": "bug"} for text in texts]})
    ids = [id for text in texts for id in tokenizer(text, add_special_tokens=False)["input_ids"]]
    counts = count_tokens(split_file(prepared.path, "test"), tokenizer)
    assert counts == (len(ids), ids.count(tokenizer.unk_token_id))
    assert counts[1] == 4


def test_a_token_that_ends_every_text_is_none_that_is_not_known() -> None:
    """As GPT-2's, whose vocabulary knows every byte."""
    tokenizer: Any = tiny_lm_tokenizer()
    tokenizer.unk_token = tokenizer.eos_token
    own = OwnTokens.of(tokenizer)
    assert own.unknown is None
    ids = tokenizer("refund invoice")["input_ids"]
    assert tokenizer.eos_token_id in ids
    assert own.counts(ids) == (2, 0)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path, 1.0, gate=0.5, registry={"kind": "folder", "path": str(tmp_path / "registry")}, labeled=True)


def test_live_answers_are_measured_as_the_published_ones(run: Run, tmp_path: Path) -> None:
    texts = [*(str(row["text"]) for row in tiny_rows(12, seed=3)), *ODD]
    served = pulled(published(run), tmp_path / "served")
    measured = [one.measures for one in LoadedVersion(served).answered(texts)]
    prepared = tiny_prepared(tmp_path / "same", {"test": [{"text": text, "label": "bug"} for text in texts]})
    tokenizer: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(served)
    live = tuple(sum(one[name] for one in measured) for name in ("tokens", "unknown"))
    assert live == count_tokens(split_file(prepared.path, "test"), tokenizer)
    assert [one["length"] for one in measured] == [len(text) for text in texts]


def test_a_run_has_a_profile_by_evaluation_and_none_of_what_was_collected(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    start = run.chosen.start.path / "model"
    evidence = run.job.evidence
    evidence = evidence.model_copy(update={"model": evidence.model.model_copy(update={"uri": str(start)})})
    outcomes = table(12)
    profile = AnswerProfile.model_validate(answers(evidence, lambda cell: outcomes)["held_out"])
    assert profile.model_copy(update={"tokens": 0, "unknown": 0}) == answer_profile(outcomes)
    split = split_file(run.data.path, "test")
    assert (profile.tokens, profile.unknown) == count_tokens(split, AutoTokenizer.from_pretrained(start))

    def gone(cell: object) -> LabelOutcomes:
        raise StorageError("outcomes/x.parquet is gone; run it again")

    assert answers(evidence, gone) == {}
