"""A reward model beside a policy: asked as it was trained, and refused where it is none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from ftlib.errors import ModelError
from ftlib.models.folder import find_model
from ftlib.models.reference import ModelRef
from ftlib.registry.versions import MANIFEST, Manifest
from ftlib.testing import tiny_classifier
from ftlib.training.rewards.base import Answered
from ftlib.training.rewards.scoring import load_reward_model

ANSWERED = [Answered("the invoice", "please ask"), Answered("a card", "crash and freeze and reload again")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_classifier(tmp_path / "model", ("one", "two"))


def with_one_output(folder: Path) -> Path:
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1, ignore_mismatched_sizes=True)
    with torch.no_grad():
        model.classifier.weight.normal_()
    model.save_pretrained(folder)
    return folder


def written_by(folder: Path, **format: object) -> Path:
    recipe = {"datasets": {"pairs": {"format": format}}}
    manifest = Manifest(name="judge", description="", files=(), metrics={}, lineage={"recipe": recipe})
    (folder / MANIFEST).write_text(manifest.model_dump_json())
    return folder


def stock(folder: Path, texts: list[str]) -> list[float]:
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    return [float(model.eval()(**tokenizer(text, return_tensors="pt")).logits.detach()[0, 0]) for text in texts]


def test_a_stock_reward_model_reads_prompt_and_answer_on_lines_of_their_own(folder: Path) -> None:
    with_one_output(folder)
    ours = load_reward_model(find_model(ModelRef(path=str(folder)))).scores(ANSWERED)
    assert ours == pytest.approx(stock(folder, [f"{one.prompt}\n{one.answer}" for one in ANSWERED]), abs=1e-5)
    assert ours[0] != ours[1]


def test_a_version_is_asked_as_its_rows_were_laid_out(folder: Path) -> None:
    with_one_output(folder)
    format = {"kind": "compared_texts", "chosen": "a", "rejected": "b", "max_tokens": 32}
    alone = load_reward_model(find_model(ModelRef(path=str(written_by(folder, **format))))).scores(ANSWERED)
    assert alone == pytest.approx(stock(folder, [one.answer for one in ANSWERED]), abs=1e-5)
    written_by(folder, **format, prompt="p", separator=" answer ")
    asked = load_reward_model(find_model(ModelRef(path=str(folder)))).scores(ANSWERED)
    assert asked == pytest.approx(stock(folder, [f"{one.prompt} answer {one.answer}" for one in ANSWERED]), abs=1e-5)


def test_what_is_no_reward_model_is_refused(folder: Path) -> None:
    with pytest.raises(ModelError, match="has 2 outputs, and a reward model has one"):
        load_reward_model(find_model(ModelRef(path=str(folder))))
    written_by(with_one_output(folder), kind="scored_text", text="t", score="s")
    with pytest.raises(ModelError, match=r"\(judge\) is no reward model: no dataset of it is compared_texts"):
        load_reward_model(find_model(ModelRef(path=str(folder))))
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["BertForSequenceClassification"]
