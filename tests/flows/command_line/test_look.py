"""`reglage look`: what is shown is what is trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from flows.command_line.main import main
from ftlib.kinds.open_split import open_split
from ftlib.testing import (
    tiny_causal_lm,
    tiny_chat_lm,
    tiny_chat_tokenizer,
    tiny_chats,
    tiny_classifier,
    tiny_comparisons,
    tiny_image_classifier,
    tiny_image_rows,
    tiny_pairs,
    tiny_prompts,
    tiny_questions,
    tiny_rows,
    tiny_sources,
    tiny_tagged_rows,
    tiny_text_to_text,
    write_jsonl,
)

RECIPE = """
name: tiny
model: {{path: {folder}/model}}
datasets:
  rows: {{source: {{kind: files, path: {folder}/rows.jsonl}}, format: {format}}}
phases:
  - {{name: tune, dataset: rows, objective: {{kind: {objective}}}, tuning: {{kind: full}}}}
evaluations: {{rows: {{dataset: rows, metrics: [{{kind: {metric}}}]}}}}
select: {{rule: best, by: rows/{metric}}}
publish: {{name: tiny}}
"""
KINDS: dict[str, tuple[Any, Any, dict[str, Any], str, str]] = {
    "chat": (tiny_chat_lm, tiny_chats, {"messages": "messages", "max_tokens": 60}, "completion", "perplexity"),
    "prompt_completion": (
        tiny_causal_lm,
        tiny_prompts,
        {"prompt": "prompt", "completion": "completion", "max_tokens": 90},
        "completion",
        "perplexity",
    ),
    "text_to_text": (
        tiny_text_to_text,
        tiny_sources,
        {"source": "source", "target": "target", "max_tokens": 60, "max_target_tokens": 60},
        "completion",
        "perplexity",
    ),
    "labeled_text": (
        tiny_classifier,
        tiny_rows,
        {"text": "text", "label": "label", "max_tokens": 20},
        "classification",
        "accuracy",
    ),
    "tagged_words": (
        tiny_classifier,
        tiny_tagged_rows,
        {"words": "words", "tags": "tags", "max_tokens": 60},
        "token_classification",
        "tag_accuracy",
    ),
    "question_answer": (
        tiny_classifier,
        tiny_questions,
        {"question": "question", "context": "context", "answers": "answers", "max_tokens": 60, "stride": 8},
        "answer_span",
        "answer_f1",
    ),
    "compared_texts": (
        tiny_classifier,
        tiny_comparisons,
        {"chosen": "chosen", "rejected": "rejected", "margin": "margin", "max_tokens": 40},
        "reward",
        "pair_accuracy",
    ),
    "masked_text": (tiny_classifier, tiny_rows, {"text": "text", "max_tokens": 40}, "masked_lm", "masked_accuracy"),
    "retrieval_pairs": (
        tiny_classifier,
        tiny_pairs,
        {"anchor": "anchor", "positive": "positive", "max_tokens": 40},
        "multiple_negatives",
        "mrr",
    ),
}


def write(folder: Path, kind: str, **fields: Any) -> Path:
    model, rows, columns, objective, metric = KINDS[kind]
    model(folder / "model")
    write_jsonl(folder / "rows.jsonl", rows(60))
    format = json.dumps({"kind": kind, **columns, **fields})
    (folder / "tiny.yaml").write_text(
        RECIPE.format(folder=folder, format=format, objective=objective, metric=metric), "utf-8"
    )
    return folder / "tiny.yaml"


def look(recipe: Path, *more: str) -> Any:
    return CliRunner().invoke(main, ["look", str(recipe), "--work", str(recipe.parent / "work"), *more])


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_shown_spells_the_rows_and_what_they_are_taught(tmp_path: Path, kind: str) -> None:
    found = look(write(tmp_path, kind), "--rows", "4", "--json")
    assert found.exit_code == 0, found.output
    shown = json.loads(found.stdout)["rows"]
    (prepared,) = (tmp_path / "work").rglob("train.arrow")
    split = open_split(prepared, ("billing", "bug", "sales") if kind == "labeled_text" else _tags(kind))
    tokenizer = tiny_chat_tokenizer()
    assert len(shown) == 4
    for row, said in enumerate(shown):
        assert said["row"] == str(split.row_ids[row])
        spelt = "".join(part["text"] for part in said["parts"]).rpartition(" → ")[2].replace(" ≻ ", " ")
        assert spelt == tokenizer.decode(split.tokens(row))
        assert said["learnt"] == int(split.supervised[row])
        assert any(part["special"] for part in said["parts"])
        learnt = "".join(part["text"] for part in said["parts"] if part["learnt"])
        match kind:
            case "chat":
                assert learnt.endswith("team [SEP]")
                assert "user" not in learnt
            case "text_to_text":
                assert said["tokens"] == split.sizes[row] > len(split.tokens(row)) == said["learnt"] + 1
                assert learnt.strip().endswith("order [SEP]")
            case "prompt_completion":
                assert learnt.strip() == tokenizer.decode(split.tokens(row)[-said["learnt"] :])
            case "retrieval_pairs":
                assert not learnt
                assert sum(part["text"].count("[CLS]") for part in said["parts"]) == 2
            case "compared_texts":
                assert said["learns"].startswith("the first is better")
                assert " ≻ " in [part["text"] for part in said["parts"]]
            case "labeled_text":
                assert said["learns"] in ("billing", "bug", "sales")
                assert not learnt
            case "tagged_words":
                assert {part["tag"] for part in said["parts"]} >= {"", "B-PAY"}
            case _:
                assert learnt


def _tags(kind: str) -> tuple[str, ...]:
    return ("B-BUG", "B-PAY", "I-BUG", "I-PAY", "O") if kind == "tagged_words" else ()


def test_piped_it_is_plain_and_what_is_learnt_stands_between_marks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = write(tmp_path, "chat")
    plain = look(recipe, "--rows", "60").stdout
    assert "\x1b" not in plain
    assert "⟦ ask the billing team [SEP]⟧" in plain
    assert "[CLS] user :" in plain
    assert "cut: it was too long" in plain
    assert "tokens are learnt" in plain
    monkeypatch.setenv("FORCE_COLOR", "1")
    coloured = look(recipe, "--rows", "1").stdout
    assert "\x1b[32m ask the billing team" in coloured
    assert "⟦" not in coloured
    monkeypatch.setenv("NO_COLOR", "1")
    assert "⟦" in look(recipe, "--rows", "1").stdout
    assert look(recipe, "--rows", "1", "--split", "test").exit_code == 0


def test_what_cannot_be_shown_is_one_line(tmp_path: Path) -> None:
    recipe = write(tmp_path, "chat")
    absent = CliRunner().invoke(main, ["look", str(recipe), "--dataset", "other"], standalone_mode=False)
    assert "'other' is not a dataset; there are rows" in str(absent.exception)
    images = tmp_path / "images"
    tiny_image_classifier(images / "model")
    write_jsonl(images / "rows.jsonl", tiny_image_rows(30))
    format = "{kind: labeled_image, image: image, label: label}"
    (images / "tiny.yaml").write_text(
        RECIPE.format(folder=images, format=format, objective="classification", metric="accuracy"), "utf-8"
    )
    refused = CliRunner().invoke(main, ["look", str(images / "tiny.yaml")], standalone_mode=False)
    assert "look shows rows of text, these are images" in str(refused.exception)
