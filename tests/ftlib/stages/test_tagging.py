"""Token classification from rows to a table of outcomes, against stock transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForTokenClassification, AutoTokenizer

from ftlib.errors import DataError
from ftlib.evaluation.metrics import EntityF1, TagAccuracy
from ftlib.kinds.collate import Collator
from ftlib.kinds.loading import load_model
from ftlib.kinds.open_split import open_split
from ftlib.kinds.outcomes import TaggedOutcomes
from ftlib.models.checkpoint import Checkpoint
from ftlib.models.folder import find_model
from ftlib.models.reference import ModelRef
from ftlib.recipe.preflight import check_labels
from ftlib.recipe.recipe import Recipe
from ftlib.stages.base import BaseJob, base
from ftlib.testing import tiny_tagged_rows
from ftlib.training.loops.batches import global_batches
from tests.ftlib.stages.kit import Bench, losses

TAGS = ("B-BUG", "B-PAY", "I-BUG", "I-PAY", "O")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(
        tmp_path_factory.mktemp("bench"),
        tiny_tagged_rows(120),
        format={"kind": "tagged_words", "words": "words", "tags": "tags", "max_tokens": 17},
        objective="token_classification",
        epochs=3,
        labels=TAGS,
    )


@pytest.fixture(scope="module")
def tuned(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return bench.train(tmp_path_factory.mktemp("tuned"))


def table(bench: Bench, checkpoint: Checkpoint) -> TaggedOutcomes:
    cell, found = bench.measure(checkpoint, (EntityF1(), EntityF1(type="BUG"), TagAccuracy()))
    assert isinstance(found, TaggedOutcomes)
    assert set(cell.metrics) == {"entity_f1", "entity_f1:BUG", "tag_accuracy"}
    assert cell.metrics["entity_f1"].value == EntityF1().compute(found)
    return found


def test_the_prepared_facts_count_words(bench: Bench) -> None:
    facts = bench.data.splits["train"]
    assert bench.data.labels == TAGS
    assert set(facts.labels) == set(TAGS)
    assert facts.labels["O"] == facts.rows
    assert facts.supervised < facts.tokens
    assert 0 < facts.truncated < facts.rows


def test_the_loss_is_stock_transformers_own(bench: Bench, tuned: Checkpoint) -> None:
    stock = AutoModelForTokenClassification.from_pretrained(bench.start.path / "model").eval()
    split = open_split(bench.data.path / "train.arrow", TAGS)
    total = words = 0.0
    for row in global_batches(split.lengths, 16, 7, 0)[0]:
        batch = split.batch([int(row)], Collator.of(stock))
        assert batch.targets is not None
        count = int((batch.targets != -100).sum())
        assert count == split.supervised[row]
        with torch.no_grad():
            total += float(stock(input_ids=batch.inputs["input_ids"], labels=batch.targets).loss) * count
        words += count
    assert losses(tuned)[0] == pytest.approx(total / words, rel=1e-5)
    assert losses(tuned)[-1] < 0.7 * losses(tuned)[0]


@pytest.mark.parametrize("micro", [1, 5])
def test_the_split_of_a_batch_does_not_change_the_loss(
    bench: Bench, tuned: Checkpoint, tmp_path: Path, micro: int
) -> None:
    np.testing.assert_allclose(losses(bench.train(tmp_path, micro_batch_size=micro)), losses(tuned), rtol=1e-4)


def test_lora_trains_the_head_and_publishes_plain_weights(bench: Bench, tmp_path: Path) -> None:
    adapted = bench.train(tmp_path, "lora")
    assert (adapted.path / "adapter" / "adapter_config.json").is_file()
    assert losses(adapted)[-1] < losses(adapted)[0]
    before, after = (
        AutoModelForTokenClassification.from_pretrained(checkpoint.path / "model").state_dict()
        for checkpoint in (bench.start, adapted)
    )
    assert before.keys() == after.keys()
    assert not torch.equal(before["classifier.weight"], after["classifier.weight"])


def test_answers_are_stock_transformers_word_by_word_and_cut_words_are_missed(bench: Bench, tuned: Checkpoint) -> None:
    found, cut = table(bench, tuned), 0
    model = AutoModelForTokenClassification.from_pretrained(tuned.path / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(tuned.path / "model")
    how: dict[str, Any] = {"is_split_into_words": True, "truncation": True, "max_length": 17}
    rows = {tuple(tokenizer(row["words"], **how)["input_ids"]): row for row in bench.rows}
    split = open_split(bench.data.path / "test.arrow", TAGS)
    for i, (gold, said) in enumerate(zip(found.gold, found.predicted, strict=True)):
        row = rows[tuple(split.tokens(i).tolist())]
        assert list(gold) == row["tags"]
        encoding = tokenizer(row["words"], return_tensors="pt", **how)
        with torch.no_grad():
            best = model(**encoding).logits[0].argmax(dim=-1).tolist()
        expected = ["O"] * len(gold)
        for token, word in reversed([*enumerate(encoding.word_ids())]):
            if word is not None:
                expected[word] = model.config.id2label[best[token]]
        assert list(said) == expected
        cut += len(gold) - int(found.targets[i])
    assert cut > 0


def test_a_head_for_the_same_tags_is_kept_and_another_is_made_afresh(bench: Bench, tuned: Checkpoint) -> None:
    model = find_model(ModelRef(path=str(tuned.path / "model")))
    kept = base(BaseJob(model=model, kind="tagged", labels=TAGS[::-1], seed=2), bench.work)
    assert (kept.fresh_head, kept.labels) == (False, TAGS)
    fresh = base(BaseJob(model=model, kind="tagged", labels=(*TAGS, "B-X", "I-X"), seed=2), bench.work)
    assert fresh.fresh_head
    assert torch.equal(
        load_model(kept.path / "model", "tagged").state_dict()["classifier.weight"],
        load_model(tuned.path / "model", "tagged").state_dict()["classifier.weight"],
    )


def recipe(**phase: Any) -> Recipe:
    source = {"kind": "files", "path": "x.jsonl"}
    form = {"kind": "tagged_words", "words": "words", "tags": "tags"}
    return Recipe.model_validate(
        {
            "name": "demo",
            "model": {"path": "m"},
            "datasets": {"mail": {"source": source, "format": form}},
            "phases": [
                {
                    "name": "tune",
                    "dataset": "mail",
                    "objective": {"kind": "token_classification"},
                    "tuning": {"kind": "full"},
                    **phase,
                }
            ],
            "evaluations": {"target": {"dataset": "mail", "metrics": [{"kind": "entity_f1"}]}},
            "select": {"by": "target/entity_f1"},
            "publish": {"name": "demo"},
        }
    )


def test_the_model_knows_both_tags_of_every_type(bench: Bench, tmp_path: Path) -> None:
    singles = [
        {"words": [*row["words"], f"x{i}"], "tags": [tag.replace("I-", "B-") for tag in row["tags"]] + ["O"]}
        for i, row in enumerate(bench.rows)
    ]
    data = bench.prepare(singles[:90], max_tokens=64)
    assert data.labels == ("B-BUG", "B-PAY", "O")
    assert check_labels(recipe(), {"mail": data}) == TAGS
    with pytest.raises(DataError, match=r"all .* training rows have the label 'O'"):
        bench.prepare(
            [{"words": row["words"], "tags": ["O"] * len(row["words"])} for row in bench.rows[:40]], max_tokens=64
        )


def test_what_does_not_fit_is_said_before_anything_runs() -> None:
    with pytest.raises(
        ValueError, match="'linear_probe' fits 'compared', 'labeled' batches; 'token_classification' learns 'tag"
    ):
        recipe(tuning={"kind": "linear_probe"})
    with pytest.raises(ValueError, match="starts from the base model: put a phase that trains the head before it"):
        Recipe.model_validate({**recipe().model_dump(mode="json"), "interpolation": {"kind": "wise_ft"}})
    with pytest.raises(ValueError, match="needs 'labeled' batches, but dataset 'mail' has format 'tagged_words'"):
        recipe(objective={"kind": "classification"})
