"""Prompts as they were asked: a reward reads the row's own, however the model's tokens lay it out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ftlib.data.formats.chat import Chat
from ftlib.data.formats.compared_texts import ComparedTexts
from ftlib.data.formats.prompt_completion import PromptCompletion
from ftlib.data.prepared import SPLITS, split_file
from ftlib.data.sources.files import Files
from ftlib.kinds.open_split import open_split
from ftlib.models.folder import find_model
from ftlib.models.reference import ModelRef
from ftlib.stages.ingest import IngestJob, ingest
from ftlib.stages.preprocess import PreprocessJob, preprocess
from ftlib.stages.quote import QuoteJob, quote
from ftlib.testing import tiny_chat_lm, write_jsonl
from ftlib.workspace import Workspace


def said(*turns: str) -> list[dict[str, str]]:
    return [{"role": role, "content": text} for role, text in (turn.split(": ", 1) for turn in turns)]


TEXTS = [{"prompt": f"the invoice {i} ", "answer": f"pay {i}"} for i in range(12)]
TALKS = [
    {"turns": said(f"user: the invoice {i}", f"assistant: pay {i}"), "asked": f"the invoice {i}"} for i in range(10)
] + [
    {
        "turns": said("system: be kind", "user: a card", "assistant: lost", "user: a bug", "assistant: crash"),
        "asked": "system: be kind\n\nuser: a card\n\nassistant: lost\n\nuser: a bug",
    },
    {  # the last answer does not fit, and the one before is what is learnt and graded
        "turns": said("user: a code", "assistant: yes", "user: again", "assistant: " + "freeze " * 120),
        "asked": "a code",
    },
]
CASES: dict[str, tuple[Any, list[dict[str, Any]], list[str]]] = {
    "texts": (
        PromptCompletion(prompt="prompt", completion="answer", prefix="ask: ", separator=": ", max_tokens=60),
        TEXTS,
        [f"the invoice {i}" for i in range(12)],
    ),
    "chats": (Chat(messages="turns", max_tokens=120), TALKS, [row["asked"] for row in TALKS]),
}


@pytest.mark.parametrize("case", CASES)
def test_prompts_are_the_rows_own(tmp_path: Path, case: str) -> None:
    format, rows, asked = CASES[case]
    work, source = Workspace(tmp_path / "work"), Files(path=str(write_jsonl(tmp_path / "rows.jsonl", rows)))
    model = find_model(ModelRef(path=str(tiny_chat_lm(tmp_path / "model"))))
    job = IngestJob.model_validate({"name": "rows", "source": source, "files": source.pin(), "limits": {}})
    raw = ingest(job, work)
    fields = {"name": "rows", "raw": raw, "dataset": {"source": source, "format": format}, "model": model}
    told = {**fields, "tokenizer": model.tokenizer, "trains": True}
    data = preprocess(PreprocessJob.model_validate(told), work)
    made = quote(QuoteJob(name="rows", data=data, raw=raw, format=format), work)
    assert made.digest() != data.digest()
    texts: list[str] = []
    for split in SPLITS:
        before, after = (open_split(split_file(of.path, split), ()) for of in (data, made))
        assert before.asked is None
        assert after.asked is not None
        texts += after.asked.to_pylist()
        assert [after.tokens(i).tolist() for i in range(len(after))] == [
            before.tokens(i).tolist() for i in range(len(before))
        ]
    assert sorted(texts) == sorted(asked)
    trained = ComparedTexts(chosen="chosen", rejected="rejected", prompt="prompt")
    example: Any = trained.example({"prompt": asked[0], "chosen": "pay 0", "rejected": "no"})
    assert trained.joined(next(text for text in texts if text == asked[0]), "pay 0") == example.parts[0]
