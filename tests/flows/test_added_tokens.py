"""A recipe that adds tokens, from rows to a version that stock transformers loads."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from flows.run.steps import pinned, steps
from flows.run.values import Inputs
from ftlib.errors import RecipeError
from ftlib.models.folder import find_model
from ftlib.published.predict import predict
from ftlib.recipe.file import load_recipe
from ftlib.registry import ModelRegistry
from ftlib.registry.outcome import ModelVersion
from ftlib.stages.step import Step, walk
from ftlib.testing import tiny_recipe, tiny_rows, write_jsonl
from ftlib.workspace import Workspace


@pytest.mark.slow
def test_added_tokens_are_learnt_mixed_and_published(tmp_path: Path) -> None:
    path = tiny_recipe(tmp_path)
    write_jsonl(tmp_path / "home.jsonl", [{**row, "text": f"<pkg> {row['text']}"} for row in tiny_rows(120)])
    recipe = yaml.safe_load(path.read_text())
    recipe["added_tokens"] = [{"token": "<pkg>", "special": False}]
    recipe["phases"][1]["tuning"] = {"kind": "lora", "rank": 2}
    recipe["select"] = {"rule": "fixed", "alpha": 0.5, "by": "away/accuracy"}
    path.write_text(yaml.safe_dump(recipe))
    r, work, made = load_recipe(path), Workspace(tmp_path / "work"), dict[str, Any]()

    def make(step: Step) -> Any:
        assert step.job
        made[step.label] = step.stage(step.job, work)
        return made[step.label]

    outcome = walk(steps(r, work, Inputs(find_model(r.model), pinned(r, work))), make)
    assert outcome is not None
    assert isinstance(outcome.result, ModelVersion)
    (new,) = made["add_tokens"].ids
    start, end = made["train probe"], made["train tune"]
    tables = [load_file(one.folder / "model.safetensors") for one in (start, end)]
    key = "bert.embeddings.word_embeddings.weight"
    moved = (tables[0][key] != tables[1][key]).any(1).nonzero().flatten().tolist()
    assert moved == [new]
    registry = ModelRegistry(r.publish.to.store())
    registry.pull(registry.version(r.publish.name), pulled := tmp_path / "pulled")
    model: Any = AutoModelForSequenceClassification.from_pretrained(pulled)
    tokenizer: Any = AutoTokenizer.from_pretrained(pulled)
    assert tokenizer("<pkg>", add_special_tokens=False)["input_ids"] == [new]
    row = model.bert.embeddings.word_embeddings.weight[new]
    torch.testing.assert_close(row, (tables[0][key][new] + tables[1][key][new]) / 2, rtol=0, atol=1e-6)
    text = "<pkg> the invoice"
    (said,) = predict(pulled, [text])
    logits = model(**tokenizer(text, return_tensors="pt")).logits
    assert said.label == model.config.id2label[int(logits.argmax())]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["phases.tune.tuning={kind: ia3}"], "added_tokens: no phase trains what the tokens mean, ia3, linear_probe"),
        (["phases.tune.tuning={kind: lora, keep: adapter}"], "over a model with more tokens, which nobody else has"),
        (["phases.tune.tuning={kind: lora}", "publish.adapter=true"], "it would stand on a model with more tokens"),
        (["retrain.start=champion"], "retrain.start is 'champion', which has these tokens already"),
        (["added_tokens=[{token: <a>}, {token: <a>}]"], "added_tokens: <a> is there twice"),
        (["added_tokens=[{token: ' '}]"], "got ' ', allowed is what is not empty"),
        (["phases.tune.tuning={kind: lora, token_rows: 3}"], "got 3, allowed are added and a list of token numbers"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_runs(tmp_path: Path, changes: list[str], said: str) -> None:
    path = tiny_recipe(tmp_path)
    with pytest.raises(RecipeError, match=said):
        load_recipe(path, ["added_tokens=[{token: <pkg>}]", *changes])
