"""A version that is an adapter, from its recipe to what is asked of it and trained from it."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import yaml
from click.testing import CliRunner, Result
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from flows.command_line.main import main
from flows.run import jobs, models_beside
from flows.run.steps import inputs, pinned, steps
from flows.run.values import Inputs, Outcome
from ftlib.errors import ModelError, RecipeError
from ftlib.evaluation.publish_check import adapter_version_difference
from ftlib.kinds.published_processor import settle_processor
from ftlib.merging.candidate_weights import write_candidate
from ftlib.merging.interpolation import Soup
from ftlib.models.adapter import find_any
from ftlib.models.bottlenecks import put_bottlenecks_over
from ftlib.models.checkpoint import Base, Checkpoint
from ftlib.models.folder import find_model
from ftlib.models.reference import ModelRef
from ftlib.published.ancestry import Ancestry
from ftlib.published.predict import predict
from ftlib.recipe.file import load_recipe
from ftlib.recipe.preflight import check_forms
from ftlib.recipe.recipe import Recipe
from ftlib.registry import ModelRegistry
from ftlib.registry.outcome import ModelVersion
from ftlib.stages.base import base
from ftlib.stages.step import walk
from ftlib.stages.train import train
from ftlib.testing import tiny_classifier, tiny_recipe
from ftlib.training.tuning.lora import LoRA
from ftlib.workspace import Workspace

TEXTS = ["the screen stays blank", "please tell me again when the parcel will be here"]


def written(folder: Path, **changes: Any) -> Path:
    path = tiny_recipe(folder)
    recipe = yaml.safe_load(path.read_text())
    recipe["phases"][1]["tuning"] = {"kind": "lora", "rank": 2, "keep": "adapter"}
    recipe["phases"][1]["optimizer"]["learning_rate"] = 1e-2
    recipe["select"] = {"rule": "fixed", "alpha": 0.5, "by": "away/accuracy"}
    path.write_text(yaml.safe_dump({**recipe, **changes}))
    return path


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, Workspace, Outcome, Path]:
    folder = tmp_path_factory.mktemp("adapter")
    recipe, work = load_recipe(written(folder)), Workspace(folder / "work")
    given = Inputs(find_model(recipe.model), pinned(recipe, work))
    outcome = walk(steps(recipe, work, given), lambda step: step.stage(step.job, work))
    assert outcome is not None
    registry = ModelRegistry(recipe.publish.to.store())
    pulled = folder / "pulled"
    registry.pull(registry.version(recipe.publish.name), pulled)
    return recipe, work, outcome, pulled


def test_a_version_is_an_adapter_over_the_base_model(ran: tuple[Recipe, Workspace, Outcome, Path]):
    recipe, _, outcome, pulled = ran
    assert isinstance(outcome.result, ModelVersion)
    manifest = json.loads((pulled / "manifest.json").read_text())
    found = find_model(recipe.model)
    assert (manifest["form"], manifest["base"]) == ("adapter", {"name": recipe.model.path, "weights": found.weights})
    assert not list(pulled.rglob("model*.safetensors"))
    # The card's way, over a base whose head is a stranger's.
    config = AutoConfig.from_pretrained(pulled)
    stock = AutoModelForSequenceClassification.from_pretrained(found.uri, config=config, ignore_mismatched_sizes=True)
    theirs: Any = peft.PeftModel.from_pretrained(stock, pulled).eval()
    tokens = AutoTokenizer.from_pretrained(pulled)(TEXTS, padding=True, return_tensors="pt")
    with torch.inference_mode():
        said = theirs(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).logits.softmax(-1)
    ours = list(predict(pulled, TEXTS))
    np.testing.assert_allclose([[*one.model_dump()["probabilities"].values()] for one in ours], said, atol=1e-5)
    card = (pulled / "README.md").read_text()
    assert "PeftModel.from_pretrained(base, folder)" in card
    assert "library_name: peft" in card


def test_a_training_goes_on_from_a_version_that_is_an_adapter(
    ran: tuple[Recipe, Workspace, Outcome, Path], tmp_path: Path
):
    recipe, _, outcome, pulled = ran
    assert outcome.evidence is not None
    work = Workspace(tmp_path)
    model = find_any(ModelRef(path=str(pulled)), models_beside.bases(recipe, work))
    start = base(jobs.base_job(recipe, model, outcome.evidence.checkpoints[0].labels), work)
    check_forms(recipe, start.form)
    assert (start.form, start.base) == ("adapter", model.base)
    trail = [start]
    for phase in recipe.phases:
        trail.append(train(jobs.train_job(recipe, phase, trail, outcome.evidence.prepared, {}), work))
    assert [one.form for one in trail] == ["adapter"] * 3
    assert all(one.base == start.base for one in trail)
    one, other = (load_file(c.folder / "adapter_model.safetensors") for c in (trail[1], trail[2]))
    assert {value.shape for value in one.values()} == {value.shape for value in other.values()}
    dense = recipe.model_copy(update={"phases": (recipe.phases[0], load_recipe(tiny_recipe(tmp_path / "d")).phases[1])})
    with pytest.raises(RecipeError, match="'wise_ft' mixes dense weights, and phase 'tune' starts from an adapter"):
        check_forms(dense, "adapter")


def test_what_a_version_was_made_over_is_known_by_its_bytes(ran: tuple[Recipe, Workspace, Outcome, Path]):
    recipe = ran[0]
    ancestry = Ancestry.read(ModelRegistry(recipe.publish.to.store()))
    assert ancestry.parents(f"{recipe.publish.name}@1") == []
    assert ancestry.manifests[f"{recipe.publish.name}@1"][1].form == "adapter"


def test_a_line_from_the_base_model_to_a_version_keeps_the_head_that_the_base_has_not(
    ran: tuple[Recipe, Workspace, Outcome, Path], tmp_path: Path
):
    recipe, pulled = ran[0], ran[3]
    registry = ["--registry", ModelRegistry(recipe.publish.to.store()).store.uri]
    words = ["interpolate", recipe.model.path, "tiny-router@1", "--alpha", "0.3", *registry, "--out"]
    done = CliRunner().invoke(main, [*words, str(tmp_path / "dense")])
    assert done.exit_code == 0, done.output
    assert "A has no classifier.bias, classifier.weight: at every alpha they are the adapter's" in done.output
    assert "is not recorded" not in done.output
    assert CliRunner().invoke(main, [*words, str(tmp_path / "adapter"), "--as-adapter"]).exit_code == 0
    stock: Any = AutoModelForSequenceClassification.from_pretrained(
        recipe.model.path, config=AutoConfig.from_pretrained(pulled), ignore_mismatched_sizes=True
    )
    start = {name: tensor.clone() for name, tensor in stock.state_dict().items()}
    end = peft.PeftModel.from_pretrained(stock, pulled).merge_and_unload().state_dict()
    made = AutoModelForSequenceClassification.from_pretrained(tmp_path / "dense").state_dict()
    assert made.keys() == end.keys()
    for name, value in made.items():
        wanted = (
            end[name] if name.startswith("classifier") else torch.lerp(start[name].double(), end[name].double(), 0.3)
        )
        torch.testing.assert_close(value, wanted.float(), rtol=0, atol=1e-6)
    config = AutoConfig.from_pretrained(pulled)
    base: Any = AutoModelForSequenceClassification.from_pretrained(recipe.model.path, config=config)
    moved = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").merge_and_unload().state_dict()
    for name, value in made.items():
        torch.testing.assert_close(moved[name], value, rtol=0, atol=1e-6)


def test_a_base_that_is_found_by_no_name_is_given_and_compared(
    ran: tuple[Recipe, Workspace, Outcome, Path], tmp_path: Path
):
    recipe, pulled = ran[0], ran[3]
    copy, moved = shutil.copytree(pulled, tmp_path / "copy"), shutil.copytree(recipe.model.path, tmp_path / "moved")
    said = json.loads((copy / "base.json").read_text())
    (copy / "base.json").write_text(json.dumps({**said, "name": str(tmp_path / "gone")}))

    def asked(command: str, *words: object) -> Result:
        return CliRunner().invoke(main, [command, str(copy), *map(str, words)], input="\n".join(TEXTS))

    wanted = CliRunner().invoke(main, ["predict", str(pulled)], input="\n".join(TEXTS)).stdout
    other = tiny_classifier(tmp_path / "other", seed=5)
    assert (
        asked("predict", "--base", moved).stdout == asked("predict", "--base", other, "--base", moved).stdout == wanted
    )
    for words, message in (
        ([], r"gone with weights \w{12}, which cannot be had: .*; name its folder: --base FOLDER"),
        (["--base", other], r"gone with weights (\w{12}), which cannot be had: .*, and \S+/other has (?!\1)\w{12}$"),
        (["--base", copy], r"and \S+/copy has an adapter$"),
        (["--base", tmp_path / "nowhere"], "does not exist"),
    ):
        refused = asked("predict", *words)
        assert refused.exit_code
        assert re.search(message, refused.output.strip())
        assert "Traceback" not in refused.output
    (tmp_path / "empty").mkdir()
    assert "has no model.safetensors" in asked("predict", "--base", tmp_path / "empty").output
    recipe_file = written(tmp_path / "again")
    measured = asked("evaluate", "--recipe", recipe_file, "--base", moved, "--work", tmp_path / "work")
    assert measured.exit_code == 0, measured.output


def test_a_base_that_is_gone_or_another_one_is_one_line(ran: tuple[Recipe, Workspace, Outcome, Path], tmp_path: Path):
    pulled = ran[3]
    copy = shutil.copytree(pulled, tmp_path / "copy")
    said = json.loads((copy / "base.json").read_text())
    (copy / "base.json").write_text(json.dumps({**said, "weights": "0" * 64}))
    with pytest.raises(ModelError, match=r"stands on .* with weights 000000000000, but .* has [0-9a-f]{12}: give back"):
        list(predict(copy, TEXTS))
    (copy / "base.json").write_text(json.dumps({**said, "name": str(tmp_path / "gone")}))
    with pytest.raises(
        ModelError, match=r"stands on .*gone with weights \w{12}, which cannot be had: model folder .* does not exist"
    ):
        list(predict(copy, TEXTS))
    (copy / "base.json").write_text(json.dumps({**said, "name": "other@3"}))
    with pytest.raises(
        ModelError, match=r"stands on other@3 with weights \w{12}, which cannot be had: it is a registry's version"
    ):
        list(predict(copy, TEXTS))
    (copy / "base.json").write_text("{}")
    with pytest.raises(ModelError, match="does not name a model and its digest"):
        list(predict(copy, TEXTS))
    (copy / "base.json").unlink()
    with pytest.raises(ModelError, match="is an adapter"):
        list(predict(copy, TEXTS))


@pytest.mark.slow
def test_a_soup_with_a_version_beside_it_is_published_as_one_adapter(
    ran: tuple[Recipe, Workspace, Outcome, Path], tmp_path: Path
):
    """The version and the run's own fine-tunes were trained from one probe, and their ranks add up."""
    recipe, work = ran[0], ran[1]
    again = recipe.publish.model_copy(update={"name": "soup"})
    phases = (recipe.phases[0], recipe.phases[1].model_copy(update={"tuning": LoRA(rank=3, keep="adapter")}))
    changes = {"interpolation": Soup(seeds=(5,), siblings=("tiny-router@1",)), "phases": phases, "publish": again}
    soup = Recipe.model_validate({**recipe.model_copy(update=changes).model_dump(), "select": {"by": "away/accuracy"}})
    outcome = walk(steps(soup, work, inputs(soup, work)), lambda step: step.stage(step.job, work))
    assert outcome is not None
    assert isinstance(outcome.result, ModelVersion)
    names = [member.name for member in outcome.evidence.candidates.members]
    assert names == ["probe", "tiny-router@1", "tune-seed5", "soup", "tune"]
    (mixed,) = (member for member in outcome.evidence.candidates.members if member.name == "soup")
    write_candidate(mixed, tmp_path / "soup")
    assert json.loads((tmp_path / "soup" / "adapter_config.json").read_text())["r"] == 3 + 2 + 3
    found, data = find_model(soup.model), outcome.evidence.prepared["home"]
    stands_on = Base(name=found.name, weights=found.weights, uri=found.uri)
    settle_processor(tmp_path / "soup", soup.published_format())
    adapter_version_difference(tmp_path / "soup", stands_on, mixed, data)  # the gate that a version must pass
    dense = soup.model_copy(update={"phases": (soup.phases[0], load_recipe(tiny_recipe(tmp_path / "d")).phases[1])})
    with pytest.raises(RecipeError, match=r"'tiny-router@1' is an adapter, and the last phase ends as dense weights"):
        walk(steps(dense, work, inputs(dense, work)), lambda step: step.stage(step.job, work))


@pytest.mark.parametrize(
    ("tuning", "changes", "said"),
    [
        ({}, {"interpolation": {"kind": "slerp"}}, "ends in an adapter, and adapters are added up;"),
        ({}, {"interpolation": {"kind": "slerp"}}, "'lines', 'blocks', 'soup', 'task_arithmetic' or 'off'"),
        ({"use_dora": True}, {}, "ends in an adapter that cannot be scaled"),
        ({}, {"publish": {"name": "tiny", "adapter": True}}, "so the version is one; remove it"),
    ],
)
def test_a_recipe_whose_adapter_leads_nowhere_is_refused_before_training(
    tmp_path: Path, tuning: dict[str, Any], changes: dict[str, Any], said: str
):
    path = written(tmp_path, **changes)
    recipe = yaml.safe_load(path.read_text())
    recipe["phases"][1]["tuning"] |= tuning
    if changes.get("interpolation"):
        recipe["select"] = {"rule": "best", "by": "away/accuracy"}
    path.write_text(yaml.safe_dump(recipe))
    with pytest.raises(RecipeError, match=said):
        load_recipe(path)


def over_stock(pulled: Path, base: str) -> Any:
    """Return what stock libraries make of an adapter over its base; of bottlenecks, what the card says."""
    config = AutoConfig.from_pretrained(pulled)
    stock = AutoModelForSequenceClassification.from_pretrained(
        base, config=config, dtype=torch.float32, ignore_mismatched_sizes=True
    )
    if "put_bottlenecks_over" in (pulled / "README.md").read_text():
        return put_bottlenecks_over(stock, pulled)
    return peft.PeftModel.from_pretrained(stock, pulled).eval()


def asked_version(folder: Path, tuning: dict[str, Any]) -> tuple[Recipe, Workspace, Outcome, Path]:
    """Run a recipe that ends in an adapter, and hold what its version says against stock libraries."""
    path = written(folder, interpolation={"kind": "off"}, select={"rule": "best", "by": "away/accuracy"})
    content = yaml.safe_load(path.read_text())
    content["phases"][1]["tuning"] = tuning
    path.write_text(yaml.safe_dump(content))
    recipe, work = load_recipe(path), Workspace(folder / "work")
    given = Inputs(find_model(recipe.model), pinned(recipe, work))
    outcome = walk(steps(recipe, work, given), lambda step: step.stage(step.job, work))
    assert outcome is not None
    assert isinstance(outcome.result, ModelVersion)
    registry, pulled = ModelRegistry(recipe.publish.to.store()), folder / "pulled"
    registry.pull(registry.version(recipe.publish.name), pulled)
    assert not list(pulled.rglob("model*.safetensors"))
    tokens = AutoTokenizer.from_pretrained(pulled)(TEXTS, padding=True, return_tensors="pt")
    with torch.inference_mode():
        inputs = {name: tokens[name] for name in ("input_ids", "attention_mask")}
        said = over_stock(pulled, given.model.uri)(**inputs).logits.softmax(-1)
    ours = list(predict(pulled, TEXTS))
    np.testing.assert_allclose([[*one.model_dump()["probabilities"].values()] for one in ours], said, atol=1e-5)
    return recipe, work, outcome, pulled


def started_from(pulled: Path, recipe: Recipe, work: Workspace, outcome: Outcome) -> Checkpoint:
    """Return a version as a phase's start."""
    model = find_any(ModelRef(path=str(pulled)), models_beside.bases(recipe, work))
    start = base(jobs.base_job(recipe, model, outcome.evidence.checkpoints[0].labels), work)
    assert (start.form, start.base) == ("adapter", model.base)
    return start


@pytest.mark.parametrize("kind", ["houlsby", "ia3", "prefix_tuning"])
@pytest.mark.slow
def test_a_version_by_other_adapters_is_asked_and_trained_on(tmp_path: Path, kind: str):
    fields = {"houlsby": {"width": 4}, "ia3": {"keep": "adapter"}, "prefix_tuning": {"virtual_tokens": 4}}[kind]
    recipe, work, outcome, pulled = asked_version(tmp_path, {"kind": kind, **fields})
    assert outcome.result.logit_difference <= 1e-5  # type: ignore[union-attr]
    start = started_from(pulled, recipe, work, outcome)
    after = train(jobs.train_job(recipe, recipe.phases[1], [start], outcome.evidence.prepared, {}), work)
    assert (after.form, after.base, after.parent) == ("adapter", start.base, start.weights)
    assert after.weights != start.weights


@pytest.mark.slow
def test_a_version_under_a_prompt_is_asked_and_trained_on(tmp_path: Path):
    """P-tuning's prompt: its card says what stock peft needs, and prompt tuning goes on with it."""
    prompted = {"kind": "p_tuning", "virtual_tokens": 4, "hidden": 8}
    recipe, work, outcome, pulled = asked_version(tmp_path, prompted)
    assert outcome.result.logit_difference == 0.0  # type: ignore[union-attr]
    assert "A prompt of 4 places stands before every text" in (pulled / "README.md").read_text()
    start, evidence = started_from(pulled, recipe, work, outcome), outcome.evidence
    again = {"kind": "prompt_tuning", "virtual_tokens": 4}
    phase = type(recipe.phases[1]).model_validate({**recipe.phases[1].model_dump(), "tuning": again})
    after = train(jobs.train_job(recipe, phase, [start], evidence.prepared, {}), work)
    assert (after.form, after.base) == ("adapter", start.base)
    with pytest.raises(RecipeError, match="encoder is not saved"):
        train(jobs.train_job(recipe, recipe.phases[1], [start], evidence.prepared, {}), work)
