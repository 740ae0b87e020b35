"""Question answering from rows to a table of outcomes, against stock transformers."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

from ftlib.data.datasets import PreparedDataset
from ftlib.data.prepared import split_file
from ftlib.data.rows import canonical_json
from ftlib.evaluation.forward_pass import Share, batches_for, batches_of, predict_split
from ftlib.evaluation.metrics import AnswerExactMatch, AnswerF1
from ftlib.kinds.collate import Collator
from ftlib.kinds.loading import load_model
from ftlib.kinds.open_split import open_split
from ftlib.kinds.outcomes import SpanOutcomes, joined
from ftlib.models.checkpoint import Checkpoint
from ftlib.models.folder import find_model
from ftlib.models.reference import ModelRef
from ftlib.stages.base import BaseJob, base
from ftlib.testing import LABELS, tiny_questions
from ftlib.training.loops.batches import global_batches
from tests.ftlib.stages.kit import Bench, losses

WINDOW: dict[str, Any] = {
    "truncation": "only_second",
    "max_length": 16,
    "stride": 4,
    "return_overflowing_tokens": True,
    "return_offsets_mapping": True,
}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(
        tmp_path_factory.mktemp("bench"),
        tiny_questions(120),
        format={"kind": "question_answer", "question": "question", "context": "context", "answers": "answers"}
        | {"max_tokens": 16, "stride": 4},
        objective="answer_span",
        epochs=2,
        other_labels=LABELS,
    )


@pytest.fixture(scope="module")
def odd_rows() -> list[dict[str, Any]]:
    """Every third question has no answer, and one has none and one."""
    rows = tiny_questions(120, seed=1, unanswerable=3)
    return [*rows, {**rows[0], "answers": []}]


@pytest.fixture(scope="module")
def dropping(bench: Bench, odd_rows: list[dict[str, Any]]) -> PreparedDataset:
    return bench.prepare(odd_rows)


@pytest.fixture(scope="module")
def keeping(bench: Bench, odd_rows: list[dict[str, Any]]) -> PreparedDataset:
    return bench.prepare(odd_rows, unanswerable="keep")


@pytest.fixture(scope="module")
def tuned(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return bench.train(tmp_path_factory.mktemp("tuned"))


def test_the_loss_is_stock_transformers_own(bench: Bench, tuned: Checkpoint) -> None:
    stock = AutoModelForQuestionAnswering.from_pretrained(bench.start.path / "model").eval()
    split = open_split(split_file(bench.data.path, "train"), ())
    total, rows = 0.0, global_batches(split.lengths, 16, 7, 0)[0]
    for row in rows:
        batch = split.batch([int(row)], Collator.of(stock))
        assert batch.targets is not None
        assert "token_type_ids" in batch.inputs
        start, end = batch.targets.unbind(dim=1)
        with torch.no_grad():
            said = stock(
                input_ids=batch.inputs["input_ids"],
                token_type_ids=batch.inputs["token_type_ids"],
                start_positions=start,
                end_positions=end,
            )
        total += float(said.loss)
    assert losses(tuned)[0] == pytest.approx(total / len(rows), rel=1e-5)
    assert losses(tuned)[-1] < losses(tuned)[0]


@pytest.mark.parametrize("micro", [5])
def test_the_split_of_a_batch_does_not_change_the_loss(
    bench: Bench, tuned: Checkpoint, tmp_path: Path, micro: int
) -> None:
    np.testing.assert_allclose(losses(bench.train(tmp_path, micro_batch_size=micro)), losses(tuned), rtol=1e-4)


def test_lora_trains_the_head_and_publishes_plain_weights(bench: Bench, tmp_path: Path) -> None:
    adapted = bench.train(tmp_path, "lora")
    before, after = (
        AutoModelForQuestionAnswering.from_pretrained(checkpoint.path / "model").state_dict()
        for checkpoint in (bench.start, adapted)
    )
    assert before.keys() == after.keys()
    assert not torch.equal(before["qa_outputs.weight"], after["qa_outputs.weight"])


def test_an_answer_is_the_best_span_of_all_windows(bench: Bench, tuned: Checkpoint) -> None:
    """A second implementation: every pair of tokens of every window, with stock transformers on the raw texts."""
    cell, table = bench.measure(tuned, (AnswerExactMatch(), AnswerF1()))
    assert isinstance(table, SpanOutcomes)
    assert cell.rows == len(table) < bench.data.splits["test"].rows
    assert int(table.targets.sum()) == bench.data.splits["test"].rows
    model = AutoModelForQuestionAnswering.from_pretrained(tuned.path / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(tuned.path / "model")
    said: dict[tuple[str, str], int] = {}
    for row in bench.rows:
        answers: Any = row["answers"]
        said[answers["text"][0], by_brute_force(model, tokenizer, row)] = 1
    for answers, predicted in zip(table.answers, table.predicted, strict=True):
        assert (answers[0], predicted) in said


def by_brute_force(model: Any, tokenizer: Any, row: dict[str, Any]) -> str:
    """Return the best text of all windows."""
    return scores_by_brute_force(model, tokenizer, row)[0]


def scores_by_brute_force(model: Any, tokenizer: Any, row: dict[str, Any]) -> tuple[str, float, float]:
    """Return the best text of all windows with its score, and the lowest of the windows' scores of [CLS]."""
    encoding = tokenizer(row["question"], row["context"], padding=True, return_tensors="pt", **WINDOW)
    inputs = {name: encoding[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
    with torch.no_grad():
        logits = model(**inputs)
    best, text = -np.inf, ""
    for i, offsets in enumerate(encoding["offset_mapping"].tolist()):
        inside = [token for token, part in enumerate(encoding.sequence_ids(i)) if part == 1]
        for first in inside:
            for last in (token for token in inside if first <= token < first + 30):
                score = float(logits.start_logits[i, first]) + float(logits.end_logits[i, last])
                if score > best:
                    best, text = score, row["context"][offsets[first][0] : offsets[last][1]]
    nothing = [
        float(start[0]) + float(end[0]) for start, end in zip(logits.start_logits, logits.end_logits, strict=True)
    ]
    return text, best, min(nothing)


def test_unanswerable_questions_are_dropped_or_kept(dropping: PreparedDataset, keeping: PreparedDataset) -> None:
    assert dropping.ledger.dropped == {"unanswerable": 41}
    assert keeping.ledger.dropped == {"conflicting_labels": 2}
    assert keeping.ledger.kept == 119


def test_no_answer_scores_what_the_first_token_does_in_the_window_where_it_says_so_least(
    bench: Bench,
    tuned: Checkpoint,
    odd_rows: list[dict[str, Any]],
    dropping: PreparedDataset,
    keeping: PreparedDataset,
) -> None:
    cell, table = bench.measure(tuned, (AnswerExactMatch(), AnswerF1()), keeping)
    assert isinstance(table, SpanOutcomes)
    assert table.null_scores is not None
    assert 0 < table.unanswerable.sum() < len(table) == cell.rows < keeping.splits["test"].rows
    model = AutoModelForQuestionAnswering.from_pretrained(tuned.path / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(tuned.path / "model")
    rows = {hashlib.sha256(canonical_json(row)).hexdigest()[:32]: row for row in odd_rows}
    for i, row_id in enumerate(table.row_ids):
        text, score, nothing = scores_by_brute_force(model, tokenizer, rows[row_id])
        assert table.predicted[i] == text
        assert (table.scores[i], table.null_scores[i]) == pytest.approx((score, nothing), abs=1e-4)
        assert list(table.answers[i]) == rows[row_id]["answers"]["text"]
    # the same weights on the rows without the unanswerable ones never say that there is no answer
    _, dropped = bench.measure(tuned, (AnswerExactMatch(), AnswerF1()), dropping)
    assert isinstance(dropped, SpanOutcomes)
    assert dropped.null_scores is None
    assert not dropped.silent(-1e9).any()


def test_windows_asked_by_several_workers_make_the_same_table(bench: Bench, tuned: Checkpoint) -> None:
    split = open_split(split_file(bench.data.path, "test"), ())
    model = load_model(tuned.path / "model", "spans")
    whole = predict_split(model, split, (), lambda: None)
    shares = [Share(i, 3) for i in range(3)]
    dealt = [batches_for(model, split, share) for share in shares]
    parts = [predict_split(model, split, (), lambda: None, batches=batches) for batches in dealt]
    order = np.concatenate([np.sort(np.concatenate(batches_of(split, share))) for share in shares])
    back = joined(parts).take(np.argsort(order))
    assert back.by_example().to_parquet() == whole.by_example().to_parquet()


def test_a_head_that_answers_is_kept(bench: Bench, tuned: Checkpoint) -> None:
    model = find_model(ModelRef(path=str(tuned.path / "model")))
    kept = base(BaseJob(model=model, kind="spans", labels=(), seed=2), bench.work)
    assert (kept.fresh_head, kept.labels, bench.start.fresh_head) == (False, (), True)
    assert kept.weights == tuned.weights
