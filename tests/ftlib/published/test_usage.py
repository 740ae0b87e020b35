"""The snippets of model cards, run as they stand but for the folder and the text."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from ftlib.data.formats.prompt_completion import PromptCompletion
from ftlib.data.processor import Processor
from ftlib.evaluation.forward_pass import predict_split
from ftlib.kinds.loading import load_model, load_with_gaps
from ftlib.kinds.open_split import open_split
from ftlib.kinds.outcomes import CompletionOutcomes
from ftlib.kinds.writing import save_model
from ftlib.published.usage import usage
from ftlib.recipe.recipe import Recipe
from ftlib.testing import tiny_checkpoint, tiny_classifier, tiny_lm_tokenizer, tiny_prepared_as, tiny_prompts

OBJECTIVES = {"prompt_completion": "completion", "scored_text": "regression", "plain_text": "causal_lm"}
METRICS = {"prompt_completion": "exact_match", "scored_text": "r2", "plain_text": "perplexity"}


def recipe(format: dict[str, Any], **evaluation: Any) -> Recipe:
    metric, kind = METRICS[format["kind"]], OBJECTIVES[format["kind"]]
    return Recipe.model_validate(
        {
            "name": "demo",
            "model": {"path": "models/tiny"},
            "datasets": {"mail": {"source": {"kind": "files", "path": "rows.jsonl"}, "format": format}},
            "phases": [{"name": "tune", "dataset": "mail", "objective": {"kind": kind}, "tuning": {"kind": "full"}}],
            "evaluations": {"mail": {"dataset": "mail", "metrics": [{"kind": metric}], **evaluation}},
            "interpolation": {"kind": "off"},
            "select": {"by": f"mail/{metric}"},
            "publish": {"name": "demo"},
        }
    )


def answered(card: str, folder: Path, text: str) -> str:
    """Run the card's snippet on another folder and text; return what it prints."""
    code = re.findall(r"```python\n(.*?)```", card, re.DOTALL)[0]
    assert code.count('"path/to/this/folder"') == code.count('"some text"') == 1
    code = code.replace('"path/to/this/folder"', repr(str(folder))).replace('"some text"', repr(text))
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "card", "exec"), {})
    return printed.getvalue().removesuffix("\n")


@pytest.mark.parametrize("separator", ["\n", " -> ", "### answer:"])
def test_a_completion_model_is_asked_as_it_was_trained_and_evaluated(tmp_path: Path, separator: str) -> None:
    format = PromptCompletion(prompt="prompt", completion="completion", separator=separator, max_tokens=96)
    # A random model may go on with anything: only the very same tokens before it give the same answer.
    end = tiny_checkpoint(tmp_path / "model", labels=())
    assert AutoTokenizer.from_pretrained(end.path / "model")("a")["input_ids"][-1] == tiny_lm_tokenizer().eos_token_id
    rows = tiny_prompts(4)
    data = tiny_prepared_as(tmp_path / "data", format, {"test": rows}, Processor.of(tiny_lm_tokenizer()))
    table = predict_split(
        load_model(end.path / "model", "completions"),
        open_split(data.path / "test.arrow", ()),
        (),
        tiny_lm_tokenizer,
        max_new_tokens=7,
    )
    assert isinstance(table, CompletionOutcomes)
    assert table.predicted is not None
    card = usage(recipe(format.model_dump(mode="json"), max_new_tokens=7))
    said = [answered(card, end.path / "model", row["prompt"]) for row in rows]
    assert said == list(table.predicted)
    assert all(said)
    assert f"the separator `{separator!r}`" in card
    assert ("Blanks at the separator's end are left to the answer" in card) == separator.endswith(" ")


def test_a_language_model_goes_on_greedily(tmp_path: Path) -> None:
    end = tiny_checkpoint(tmp_path / "model", labels=())
    card = usage(recipe({"kind": "plain_text", "text": "text"}))
    first, second = (answered(card, end.path / "model", "the invoice") for _ in range(2))
    assert first == second
    assert first.startswith("the invoice")


def test_a_regression_prints_its_number(tmp_path: Path) -> None:
    base = tiny_classifier(tmp_path / "base")
    save_model(load_with_gaps(base, "scored", num_labels=1)[0], tmp_path / "model", (), base)
    card = usage(recipe({"kind": "scored_text", "text": "text", "score": "score"}))
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model").eval()
    inputs = AutoTokenizer.from_pretrained(tmp_path / "model")("a large invoice", return_tensors="pt")
    with torch.inference_mode():
        logit = float(model(**inputs).logits)
    assert float(answered(card, tmp_path / "model", "a large invoice")) == pytest.approx(logit, abs=1e-6)
    assert "`LABEL_0` beside it means nothing" in card
