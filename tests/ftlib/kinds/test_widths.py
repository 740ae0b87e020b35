"""Widths rounded up, and packs, of kinds whose targets lie on tokens: the loss is that of the rows as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    AutoModelForTokenClassification,
    BertConfig,
    LlamaConfig,
)

from ftlib.data.formats.chat import Chat
from ftlib.data.processor import Processor
from ftlib.kinds.collate import Collator
from ftlib.kinds.open_split import open_split
from ftlib.kinds.split import PreparedSplit
from ftlib.testing import (
    tiny_chat_tokenizer,
    tiny_chats,
    tiny_prepared,
    tiny_prepared_as,
    tiny_questions,
    tiny_tagged_rows,
    tiny_tokenizer,
)
from ftlib.training.objectives.answer_span import AnswerSpan
from ftlib.training.objectives.completion import Completion
from ftlib.training.objectives.token_classification import TokenClassification

TAGS = ("B-BUG", "B-PAY", "I-BUG", "I-PAY", "O")
SMALL: dict[str, Any] = {
    "vocab_size": len(tiny_tokenizer()),
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "pad_token_id": 0,
}


def chats(folder: Path) -> PreparedSplit:
    tiny_prepared_as(folder, Chat(messages="messages"), {"train": tiny_chats(9)}, Processor.of(tiny_chat_tokenizer()))
    return open_split(folder / "train.arrow", ())


def made(kind: str, folder: Path) -> tuple[Any, Any, PreparedSplit]:
    torch.manual_seed(0)
    if kind == "chats":
        return AutoModelForCausalLM.from_config(LlamaConfig(**SMALL)).eval(), Completion(), chats(folder)
    auto = AutoModelForTokenClassification if kind == "tagged" else AutoModelForQuestionAnswering
    model = auto.from_config(BertConfig(**SMALL, num_labels=5 if kind == "tagged" else 2)).eval()
    rows = tiny_tagged_rows(9) if kind == "tagged" else tiny_questions(9)
    tiny_prepared(folder, {"train": rows}, kind=kind)  # type: ignore[arg-type]
    split = open_split(folder / "train.arrow", TAGS if kind == "tagged" else ())
    return model, TokenClassification() if kind == "tagged" else AnswerSpan(), split


@pytest.mark.parametrize("kind", ["tagged", "spans", "chats"])
def test_rounding_a_width_up_changes_no_loss(kind: str, tmp_path: Path) -> None:
    model, objective, split = made(kind, tmp_path)
    narrow, wide = (split.batch(range(9), Collator.of(model, width_multiple=n)) for n in (1, 64))
    assert narrow.inputs["input_ids"].shape[1] == max(split.lengths) < wide.inputs["input_ids"].shape[1]
    with torch.no_grad():
        expected, found = objective.loss(model, narrow), objective.loss(model, wide)
    assert found.count == expected.count == split.supervised.sum()
    torch.testing.assert_close(found.total, expected.total, rtol=1e-5, atol=0)


def test_a_width_ends_where_the_models_positions_do(tmp_path: Path) -> None:
    model, _, split = made("tagged", tmp_path)
    longest = int(max(split.lengths))
    short = AutoModelForTokenClassification.from_config(BertConfig(**SMALL, max_position_embeddings=longest + 2)).eval()
    for positions, width in ((512, 64), (longest + 2, longest + 2)):
        collate = Collator.of(model if positions == 512 else short, width_multiple=64)
        batch = split.batch(range(9), collate)
        assert batch.inputs["input_ids"].shape[1] == width
        (model if positions == 512 else short)(**batch.inputs)


def test_a_packed_chat_is_taught_its_own_turns(tmp_path: Path) -> None:
    model, objective, split = made("chats", tmp_path)
    rows = np.array([3, 0, 7, 5])
    with torch.no_grad():
        found = objective.loss(model, split.pack(rows, Collator.of(model, width_multiple=16)))
        alone = [objective.loss(model, split.batch(row, Collator.of(model))) for row in rows[:, None]]
    assert found.count == sum(one.count for one in alone) == split.supervised[rows].sum()
    torch.testing.assert_close(found.total, torch.stack([one.total for one in alone]).sum(), rtol=1e-5, atol=0)
