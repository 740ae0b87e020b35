"""The tiny models and rows that users' tests stand on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from ftlib.kinds.kind import KINDS
from ftlib.testing import (
    LABELS,
    tiny_causal_lm,
    tiny_chats,
    tiny_classifier,
    tiny_comparisons,
    tiny_multi_label_rows,
    tiny_pairs,
    tiny_preferences,
    tiny_prepared,
    tiny_prompts,
    tiny_questions,
    tiny_rows,
    tiny_scored_rows,
    tiny_sources,
    tiny_tagged_rows,
    tiny_thumbs,
)


def test_there_are_prepared_rows_of_every_kind_of_text(tmp_path: Path) -> None:
    rows = {
        "labeled": tiny_rows(6),
        "multi_labeled": tiny_multi_label_rows(6),
        "scored": tiny_scored_rows(6),
        "tagged": tiny_tagged_rows(6),
        "spans": tiny_questions(6),
        "tokens": tiny_rows(6),
        "completions": tiny_prompts(6),
        "chats": tiny_chats(6),
        "text_to_text": tiny_sources(6),
        "masked": tiny_rows(6),
        "retrieved": tiny_pairs(6),
        "preferences": tiny_preferences(6),
        "judged": tiny_thumbs(6),
        "compared": tiny_comparisons(6),
    }
    assert [*rows] == [kind.name for kind in KINDS.values() if kind.modality == "text"]
    for kind, made in rows.items():
        data = tiny_prepared(tmp_path / kind, {"train": made}, kind=kind)
        assert (data.kind, data.splits["train"].rows) == (kind, 6)
    with pytest.raises(ValueError, match="rows of text, got 'labeled_images'; lay them out with tiny_prepared_as"):
        tiny_prepared(tmp_path / "images", {"train": tiny_rows(2)}, kind="labeled_images")


def test_stock_transformers_loads_the_classifier(tmp_path: Path) -> None:
    folder = tiny_classifier(tmp_path / "model", LABELS)
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model.config.id2label == dict(enumerate(LABELS))
    assert model(**tokenizer("The invoice, please!", return_tensors="pt")).logits.shape == (1, 3)
    assert tokenizer.unk_token_id not in tokenizer("Zebra crossing? 42% (or so) ~ {x}")["input_ids"]


def test_stock_transformers_loads_the_language_model(tmp_path: Path) -> None:
    folder = tiny_causal_lm(tmp_path / "model")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model(**{"input_ids": tokenizer("the bug", return_tensors="pt")["input_ids"]}).logits.shape[-1] == len(
        tokenizer
    )
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


def test_the_seed_decides_the_weights_and_leaves_the_global_one_alone(tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    states = [
        AutoModelForSequenceClassification.from_pretrained(
            tiny_classifier(tmp_path / name, LABELS, seed=seed)
        ).state_dict()
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    assert torch.rand(1) == expected
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not all(torch.equal(states[0][name], states[2][name]) for name in states[0])


def test_the_rows_are_distinct_balanced_and_learnable() -> None:
    train, test = tiny_rows(300), tiny_rows(90, seed=1)
    assert len({row["text"] for row in [*train, *test]}) == 390
    assert {label: sum(row["label"] == label for row in train) for label in LABELS} == dict.fromkeys(LABELS, 100)
    model = make_pipeline(CountVectorizer(), LogisticRegression(max_iter=500))
    model.fit([row["text"] for row in train], [row["label"] for row in train])
    assert model.score([row["text"] for row in test], [row["label"] for row in test]) > 0.9
