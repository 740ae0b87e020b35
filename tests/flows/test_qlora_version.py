"""Versions whose adapter was trained over a base in four bits: published, asked, and trained on."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import yaml
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, BitsAndBytesConfig

from flows.run import jobs, models_beside
from flows.run.steps import pinned, steps
from flows.run.values import Inputs, Outcome
from ftlib.errors import RecipeError
from ftlib.models.adapter import find_any
from ftlib.models.folder import find_model
from ftlib.models.reference import ModelRef
from ftlib.published.predict import predict
from ftlib.recipe.file import load_recipe
from ftlib.recipe.preflight import check_forms
from ftlib.recipe.recipe import Recipe
from ftlib.recipe.resources import check_resources
from ftlib.registry import ModelRegistry
from ftlib.registry.outcome import ModelVersion
from ftlib.stages.base import base
from ftlib.stages.step import Step, walk
from ftlib.stages.train import train
from ftlib.testing import tiny_classifier, tiny_recipe
from ftlib.workspace import Workspace

TEXTS = ["the screen stays blank", "please tell me again when the parcel will be here"]


def written(folder: Path, **changes: Any) -> Path:
    path = tiny_recipe(folder)
    tiny_classifier(folder / "model", hidden=64)
    recipe = yaml.safe_load(path.read_text())
    recipe["phases"][1]["tuning"] = {"kind": "qlora", "rank": 2, "keep": "adapter"}
    recipe["phases"][1]["optimizer"]["learning_rate"] = 1e-2
    recipe["select"] = {"rule": "fixed", "alpha": 0.5, "by": "away/accuracy"}
    path.write_text(yaml.safe_dump({**recipe, **changes}))
    return path


def ran(folder: Path, recipe: Recipe) -> tuple[Outcome, list[str], Path]:
    work, labels = Workspace(folder / "work"), list[str]()

    def make(step: Step) -> Any:
        labels.append(step.label)
        assert step.job
        return step.stage(step.job, work)

    outcome = walk(steps(recipe, work, Inputs(find_model(recipe.model), pinned(recipe, work))), make)
    assert outcome is not None
    registry = ModelRegistry(recipe.publish.to.store())
    registry.pull(registry.version(recipe.publish.name), folder / "pulled")
    return outcome, labels, folder / "pulled"


@pytest.mark.slow
def test_a_version_over_four_bits_is_asked_by_stock_libraries_and_trained_on(tmp_path: Path) -> None:
    recipe = load_recipe(written(tmp_path))
    outcome, labels, pulled = ran(tmp_path, recipe)
    assert labels.index("quantize for tune") == labels.index("train tune") - 1
    assert isinstance(outcome.result, ModelVersion)
    assert outcome.result.logit_difference <= 1e-5
    assert outcome.evidence is not None
    names = [one.phase for one in outcome.evidence.checkpoints]
    assert names == ["base", "probe", "probe-4bit", "tune"]
    assert {cell.candidate for report in outcome.evidence.final for cell in report.measured} >= {*names}
    told, manifest = (json.loads((pulled / name).read_text()) for name in ("base.json", "manifest.json"))
    assert told == manifest["base"] == {**told, "quantization": "nf4_double"}
    card = (pulled / "README.md").read_text()
    assert "base = base.dequantize()" in card
    config = AutoConfig.from_pretrained(pulled)
    four = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        llm_int8_skip_modules=["classifier"],
    )
    stock: Any = AutoModelForSequenceClassification.from_pretrained(
        find_model(recipe.model).uri,
        config=config,
        dtype="float32",
        quantization_config=four,
        ignore_mismatched_sizes=True,
    )
    theirs: Any = peft.PeftModel.from_pretrained(stock.dequantize(), pulled).eval()
    tokens = AutoTokenizer.from_pretrained(pulled)(TEXTS, padding=True, return_tensors="pt")
    with torch.inference_mode():
        said = theirs(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).logits.softmax(-1)
    ours = list(predict(pulled, TEXTS))
    np.testing.assert_allclose([[*one.model_dump()["probabilities"].values()] for one in ours], said, atol=1e-5)

    work = Workspace(tmp_path / "again")
    model = find_any(ModelRef(path=str(pulled)), models_beside.bases(recipe, work))
    assert model.base
    assert model.base.quantization == "nf4_double"
    start = base(jobs.base_job(recipe, model, outcome.evidence.checkpoints[0].labels), work)
    assert base(jobs.base_job(recipe, model, outcome.evidence.checkpoints[0].labels), work).base == start.base
    assert (start.form, start.base and start.base.quantization) == ("adapter", None)  # it is rounded already
    check_forms(recipe, start.form, (), model.base.quantization)
    end = train(jobs.train_job(recipe, recipe.phases[1], [start], outcome.evidence.prepared, {}), work)
    assert (end.form, end.base, end.parent) == ("adapter", start.base, start.weights)
    with pytest.raises(RecipeError, match="goes on with an adapter that was trained over unrounded weights"):
        check_forms(recipe, "adapter")


@pytest.mark.parametrize(
    ("tuning", "changes", "words"),
    [
        (
            {"keep": "merged"},
            {"publish": {"name": "t", "adapter": True}},
            "publish.adapter: 'qlora' trains over",
        ),
        ({"use_dora": True}, {}, "qlora holds in four bits; use lora"),
    ],
)
def test_what_four_bits_cannot_do_is_refused_by_the_check(
    tuning: dict[str, Any], changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    path = written(tmp_path, **changes)
    recipe = yaml.safe_load(path.read_text())
    recipe["phases"][1]["tuning"] |= tuning
    path.write_text(yaml.safe_dump(recipe))
    with pytest.raises(RecipeError, match=words):
        load_recipe(path)


def test_without_bitsandbytes_nothing_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(check_resources.__globals__, "find_spec", lambda _: None)
    with pytest.raises(RecipeError, match=r"tune\].tuning: 'qlora' needs bitsandbytes, .*\[bitsandbytes\]', or use 'l"):
        check_resources(load_recipe(written(tmp_path)))
