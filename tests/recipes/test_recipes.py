"""Every recipe we ship is run from raw rows to a published version, made tiny. A new file here is a new test."""

from __future__ import annotations

import base64
import json
import re
import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from moto.server import ThreadedMotoServer
from PIL import Image
from transformers import (
    AutoModelForCausalLM,
    AutoModelForObjectDetection,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    GenerationConfig,
    YolosImageProcessorPil,
)

from flows.command_line.main import main
from flows.finetune import finetune
from ftlib.config import Config
from ftlib.data.sources.feedback import Feedback
from ftlib.data.sources.files import Files
from ftlib.data.sources.image_folder import ImageFolder
from ftlib.data.sources.installed_text import InstalledText
from ftlib.data.sources.sql import Sql
from ftlib.fingerprint import Job
from ftlib.kinds.kind import KINDS
from ftlib.kinds.predictions import BoxPrediction, LabelPrediction, MultiLabelPrediction, ScorePrediction
from ftlib.published.predict import predict
from ftlib.recipe.evidence import Evidence
from ftlib.recipe.file import load_recipe
from ftlib.recipe.recipe import Recipe
from ftlib.registry import ModelRegistry
from ftlib.registry.outcome import ModelVersion
from ftlib.registry.places.s3 import S3
from ftlib.report.report import Report
from ftlib.storage import Store
from ftlib.testing import (
    LABELS,
    tiny_boxed_rows,
    tiny_captioned_rows,
    tiny_chat_lm,
    tiny_chats,
    tiny_classifier,
    tiny_comparisons,
    tiny_detector,
    tiny_image_classifier,
    tiny_image_rows,
    tiny_pairs,
    tiny_pipeline,
    tiny_preferences,
    tiny_questions,
    tiny_rows,
    tiny_sources,
    tiny_tagged_rows,
    tiny_text_to_text,
    write_jsonl,
)
from ftlib.training.tuning.frozen_layers import FrozenLayers
from ftlib.training.tuning.zero_shot import ZeroShot
from tasks.runner import Runner, StageRun

FOLDER = Path(__file__).parents[2] / "recipes"
RECIPES = sorted(FOLDER.glob("*.yaml"))
each_recipe = pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)

AT_ONCE = {"quickstart", "fresh_data", "s3_registry"}
"""Recipes that between them go most ways from rows to a version; the slow tier runs the others."""
each_run = pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=[] if path.stem in AT_ONCE else [pytest.mark.slow]) for path in RECIPES],
    ids=lambda path: path.stem,
)


class PlainRunner(Runner):
    """Calls the stages as they are, so that the flow's own body runs without a Prefect server."""

    def here(self, task: Any, job: Job, label: str) -> Any:
        artifact = task.fn(job, self.work)
        self.steps.append(
            StageRun(stage=label, fingerprint=job.fingerprint, done_before=False, seconds=0.0, work_seconds=0.0)
        )
        return artifact

    def on_thread(self, task: Any, job: Job, label: str, meanwhile: Any = None) -> Any:
        return self.here(task, job, label)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One workspace for all: recipes that share rows share their ingestion."""
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def s3_endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def registry(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    import boto3

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    boto3.resource("s3", endpoint_url=s3_endpoint).Bucket("models").create()
    return s3_endpoint


def test_there_are_recipes() -> None:
    assert len(RECIPES) >= 6


@each_recipe
def test_recipe_is_named_after_its_file_and_passes_check(path: Path) -> None:
    assert load_recipe(path).name == path.stem
    result = CliRunner().invoke(main, ["check", str(path)])
    assert result.exit_code == 0, result.output
    assert path.read_text().startswith("# "), "a recipe says in its first line what it shows"


@each_recipe
def test_recipe_restates_no_default(path: Path) -> None:
    assert list(restated(load_recipe(path), "recipe")) == []


def restated(value: object, where: str) -> Iterator[str]:
    """Yield the fields that were given and equal their default; `kind` chooses the class and must be there."""
    if isinstance(value, Config):
        for name, field in type(value).model_fields.items():
            inner = getattr(value, name)
            if name in value.model_fields_set and name != "kind" and not field.is_required() and inner == field.default:
                yield f"{where}.{name}"
            yield from restated(inner, f"{where}.{name}")
    elif isinstance(value, dict):
        for name, member in value.items():
            yield from restated(member, f"{where}.{name}")
    elif isinstance(value, tuple):
        for i, member in enumerate(value):
            yield from restated(member, f"{where}[{i}]")


def test_a_restated_default_is_found() -> None:
    recipe = load_recipe(RECIPES[0], ["phases.-1.optimizer.weight_decay=0.01"])
    assert list(restated(recipe, "recipe")) == [f"recipe.phases[{len(recipe.phases) - 1}].optimizer.weight_decay"]


@each_run
def test_recipe_runs_to_a_published_version(
    path: Path, work: Path, tmp_path: Path, registry: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("flows.run.tracked.Runner", PlainRunner)
    overrides = tiny_overrides(load_recipe(path), tmp_path, registry)
    record = finetune.fn(str(path), overrides=overrides, work=str(work)).data
    assert isinstance(record.result, ModelVersion)
    assert record.result.version == 1
    draws = load_recipe(path).published_format().yields == "captioned_images"  # then it is a difference of pixels
    assert record.result.logit_difference <= (1e-3 if draws else 1e-5)
    assert record.result.name == load_recipe(path).publish.name
    steps = {checkpoint.phase: checkpoint.facts["steps"] for checkpoint in record.evidence.ends[1:]}
    assert list(steps) == [phase.name for phase in load_recipe(path).phases]
    assert all(count > 0 for count in steps.values())
    kind = record.evidence.recipe.published_format().asked_as
    dense = record.evidence.checkpoints[-1].form == "dense"  # tests/flows/test_adapter_version.py asks the others
    if record.evidence.recipe.tasks:
        check_tasks(record.result, record.evidence.recipe, tmp_path / "pulled")
    if kind == "text_to_text":
        check_written(record.result, record.evidence.recipe, tmp_path / "pulled")
    if kind == "completions" and dense:
        check_completions(record.result, record.evidence.recipe, tmp_path / "pulled")
    if draws:
        strip = Image.open(record.report.path / "sample_strip.png")
        assert np.asarray(strip.convert("L")).std() > 10  # samples are on it, and no empty page
        assert "sample_strip" in (record.report.path / record.report.markdown).read_text()
        check_drawn(record.result, record.evidence.recipe, tmp_path / "pulled")
    if kind == "boxed_images":
        check_found(record.result, record.evidence.recipe, tmp_path)
    if kind == "chats":
        check_chat(record.result, record.evidence.recipe.publish.to.store(), tmp_path)
        assert re.search(r"[\d,]+ of [\d,]+ tokens are learnt", (record.report.path / "report.md").read_text())
    if dense and kind in ("labeled", "multi_labeled", "scored", "compared"):
        check_answers(record.result, record.evidence.recipe, tmp_path / "pulled")
    if record.evidence.recipe.select.rule == "within":
        check_within(record.evidence, record.report)
    if any(phase.principles for phase in record.evidence.recipe.phases):  # its rows go through the most stages
        again = finetune.fn(str(path), overrides=overrides, work=str(work)).data
        assert again.evidence.checkpoints == record.evidence.checkpoints
        registry = ModelRegistry(record.evidence.recipe.publish.to.store())
        told: Any = registry.manifest(registry.version(record.result.name, 1)).lineage["principles"]
        assert [one["principle"] for one in told] == ["please", "a card", "the team"]
        assert all(one["drafts"]["answers"] > 0 for one in told)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_budget_of_kl_stops_a_language_model_short_of_the_end(
    work: Path, tmp_path: Path, registry: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same end, once with room for all of the way and once with room for a part of it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("flows.run.tracked.Runner", PlainRunner)
    path = FOLDER / "dpo.yaml"
    far = ["phases.prefer.optimizer.learning_rate=0.008", "phases.prefer.optimizer.epochs=2"]
    overrides = [*tiny_overrides(load_recipe(path), tmp_path, registry), *far]

    def ran(at_most: float) -> Any:
        return finetune.fn(str(path), overrides=[*overrides, f"select.at_most={at_most}"], work=str(work)).data

    free = ran(1e6)
    check_within(free.evidence, free.report)
    moved = free.evidence.selection.kl.moved
    upper, end = [one.at_most for one in moved], moved[-1].kl.value
    assert upper == sorted(upper)
    assert end > 0.002  # the report says three digits behind the point
    gains = margins(free.evidence)
    assert gains == sorted(gains)  # so the budget alone keeps the rule from the end
    assert free.evidence.selection.chosen.name == "alpha=1"
    held = ran((upper[2] + upper[3]) / 2)
    check_within(held.evidence, held.report)
    assert held.evidence.checkpoints == free.evidence.checkpoints
    assert held.evidence.selection.chosen.name == "alpha=0.5"
    assert held.result.version == 2
    assert "alpha=0.75 is the first beyond" in held.evidence.selection.why
    # What each alpha's distance is predicted to be is its square's share; what was measured is no prediction.
    assert any(
        one.kl.value != pytest.approx(a * a * end) for one, a in zip(moved[1:-1], (0.25, 0.5, 0.75), strict=True)
    )


def margins(evidence: Evidence) -> list[float]:
    """What `select.by` is of every candidate on the validation rows."""
    evaluation, _, metric = evidence.recipe.select.by.partition("/")
    cells = {c.candidate: c for r in evidence.sweep for c in r.measured if c.evaluation == evaluation}
    values = [cells[member.name].metrics[metric].value for member in evidence.candidates.members]
    return [value for value in values if value is not None]


def check_within(evidence: Evidence, report: Report) -> None:
    """Hold the choice against the distances that were measured, and the report's table against them."""
    select, names = evidence.recipe.select, [member.name for member in evidence.candidates.members]
    kl, budget = evidence.selection.kl, select.at_most
    assert kl is not None
    assert budget is not None
    assert len(names) > 3
    assert [one.candidate for one in kl.moved] == names
    measured = [one.kl.value for one in kl.moved]
    assert measured[0] == 0.0
    assert all(
        value is not None and 0.0 < value <= one.at_most for value, one in zip(measured[1:], kl.moved[1:], strict=True)
    )
    values = dict(zip(names, margins(evidence), strict=True))
    allowed = [names[0], *(one.candidate for one in kl.moved[1:] if one.at_most <= budget)]
    assert evidence.selection.chosen.name in allowed
    assert values[evidence.selection.chosen.name] == max(values[name] for name in allowed)
    assert (report.path / "alignment_tax.svg").exists()
    table = (report.path / report.markdown).read_text().partition("## Gain against loss along alpha")[2]
    head, _, *rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("|")][
        : 2 + len(names)
    ]
    told = [row[head.index("KL to the start")].replace("**", "") for row in rows]
    assert [float(cell.split()[0]) for cell in told] == pytest.approx(measured, abs=5e-4)


def check_answers(version: ModelVersion, recipe: Recipe, folder: Path) -> None:
    """Hold what `reglage predict` says against the logits that stock transformers computes from the pulled folder."""
    registry = ModelRegistry(recipe.publish.to.store())
    registry.pull(registry.version(version.name, version.version), folder)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForSequenceClassification.from_pretrained(folder)
    asked: list[tuple[str, ...]] = [("the invoice",), ("",), ("crash and freeze and reload again",)]
    lines = [text for (text,) in asked]
    if recipe.published_format().pairs:
        asked = [("the invoice", "please ask"), ("crash and freeze and reload again", "a card")]
        lines = [json.dumps({"question": question, "answer": answer}) for question, answer in asked]
    labels = list(model.config.id2label.values())
    for texts, said in zip(asked, predict(folder, lines, batch_size=2), strict=True):
        logits = model.eval()(**tokenizer(*texts, return_tensors="pt")).logits[0].detach().double()
        match said:
            case LabelPrediction():
                assert said.label == labels[int(logits.argmax())]
                assert list(said.probabilities.values()) == pytest.approx(logits.softmax(0).tolist(), abs=1e-5)
            case MultiLabelPrediction():
                assert list(said.probabilities.values()) == pytest.approx(logits.sigmoid().tolist(), abs=1e-5)
                assert {*said.labels} == {labels[i] for i in (logits >= 0).nonzero().flatten()}
                assert said.line().count("\t") == max(0, 2 * len(said.labels) - 1)
            case ScorePrediction():
                assert float(said.line()) == pytest.approx(float(logits[0]), abs=1e-4)
            case _:
                raise AssertionError(f"no answer of {version.name} is looked at")


def check_tasks(version: ModelVersion, recipe: Recipe, folder: Path) -> None:
    """Ask a version of several tasks as each of them, beside the folder of that task in stock transformers."""
    registry = ModelRegistry(recipe.publish.to.store())
    registry.pull(resolved := registry.version(version.name, version.version), folder)
    digests = {file.path: file.sha256 for file in registry.manifest(resolved).files}
    assert len(recipe.tasks) > 1
    bodies = [digests[f"tasks/{task}/model-00001-of-00002.safetensors"] for task in recipe.tasks]
    heads = [digests[f"tasks/{task}/model-00002-of-00002.safetensors"] for task in recipe.tasks]
    assert len({*bodies}) == 1
    assert len({*heads}) == len(heads)
    assert not [path for path in digests if path.endswith(".safetensors") and not path.startswith("tasks/")]
    lines = ["the invoice and the card", "", "crash and freeze and reload again"]
    for task in recipe.tasks:
        said = [*predict(folder, lines, batch_size=2, task=task)]
        check = check_labels if isinstance(said[0], LabelPrediction) else check_entities
        check(folder / "tasks" / task, lines, said)
        result = CliRunner().invoke(main, ["predict", str(folder), "--task", task], input="\n".join(lines) + "\n")
        assert (result.exit_code, result.stdout.splitlines()) == (0, [one.line() for one in said])
    for got, words in (((), "none"), (("--task", "else"), "'else'")):
        result = CliRunner().invoke(main, ["predict", str(folder), *got], input="the invoice\n")
        assert result.exit_code != 0
        told = result.stderr or str(result.exception)
        assert f"answers several tasks, got {words}; give --task, one of {', '.join(recipe.tasks)}" in told


def check_labels(folder: Path, lines: list[str], said: list[Any]) -> None:
    """Hold labels against a stock classifier's."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForSequenceClassification.from_pretrained(folder)
    for line, one in zip(lines, said, strict=True):
        shares = model.eval()(**tokenizer(line, return_tensors="pt")).logits[0].detach().double().softmax(0)
        assert one.label == model.config.id2label[int(shares.argmax())]
        assert list(one.probabilities.values()) == pytest.approx(shares.tolist(), abs=1e-5)


def check_entities(folder: Path, lines: list[str], said: list[Any]) -> None:
    """Hold entities against the tags of the words' first tokens in a stock tagger."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForTokenClassification.from_pretrained(folder)
    for line, one in zip(lines, said, strict=True):
        if not line:
            assert one.entities == ()
            continue
        inputs = tokenizer(line.split(), is_split_into_words=True, return_tensors="pt")
        words = inputs.word_ids()
        shares = model.eval()(**inputs).logits[0].detach().double().softmax(-1)
        sure = [shares[words.index(word)] for word in range(len(line.split()))]
        tags = [model.config.id2label[int(each.argmax())] for each in sure]
        named = [i for entity in one.entities for i in range(entity.first, entity.end)]
        assert named == [i for i, tag in enumerate(tags) if tag != "O"]
        for entity in one.entities:
            assert {tags[i][2:] for i in range(entity.first, entity.end)} == {entity.type}
            means = [float(sure[i].max()) for i in range(entity.first, entity.end)]
            assert entity.probability == pytest.approx(sum(means) / len(means), abs=1e-5)
        assert (one.words, one.read) == (len(line.split()), len(line.split()))
    assert any(one.entities for one in said)


def check_chat(version: ModelVersion, store: Store, folder: Path) -> None:
    """Hold what `reglage predict` says against what stock transformers writes by the pulled folder's own template."""
    registry = ModelRegistry(store)
    registry.pull(registry.version(version.name, version.version), folder / "pulled")
    pulled, own = folder / "pulled", folder / "tiny-model"
    assert (pulled / "chat_template.jinja").read_bytes() == (own / "chat_template.jinja").read_bytes()
    tokenizer, model = AutoTokenizer.from_pretrained(pulled), AutoModelForCausalLM.from_pretrained(pulled)
    chats = [
        [{"role": "user", "content": "the invoice and the card"}],
        [{"role": "system", "content": "please help"}, {"role": "user", "content": "crash"}],
    ]
    lines = ["the invoice and the card", json.dumps(chats[1])]
    for chat, said in zip(chats, predict(pulled, lines, max_new_tokens=8), strict=True):
        inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True, return_tensors="pt")
        inputs.pop("token_type_ids", None)  # of the tiny models' tokenizer, which is BERT's
        whole = model.eval().generate(**inputs, do_sample=False, max_new_tokens=8)
        new = whole[0, inputs["input_ids"].shape[1] :]
        assert said.model_dump() == {"text": tokenizer.decode(new, skip_special_tokens=True)}
        assert "\n" not in said.line()


def check_found(version: ModelVersion, recipe: Recipe, folder: Path) -> None:
    """Hold what `reglage predict` says against what stock transformers' own post-processing finds."""
    registry = ModelRegistry(recipe.publish.to.store())
    registry.pull(registry.version(version.name, version.version), pulled := folder / "pulled")
    processor: Any = YolosImageProcessorPil.from_pretrained(pulled)
    model = AutoModelForObjectDetection.from_pretrained(pulled).eval()
    with torch.no_grad():  # or nothing may be sure enough to be told
        model.class_labels_classifier.layers[-1].bias[0] += 6
    model.save_pretrained(pulled)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)).save(folder / "one.png")
    image = Image.open(folder / "one.png")
    output = model(**processor(images=[image], return_tensors="pt"))
    (theirs,) = processor.post_process_object_detection(output, threshold=0.5, target_sizes=[(40, 60)])
    order = theirs["scores"].argsort(descending=True)
    (said,) = predict(pulled, [str(folder / "one.png")])
    assert isinstance(said, BoxPrediction)
    assert said.boxes
    assert [one.score for one in said.boxes] == pytest.approx(theirs["scores"][order].tolist(), abs=1e-5)
    found = np.array([[x, y, x + width, y + height] for x, y, width, height in (one.box for one in said.boxes)])
    assert found == pytest.approx(theirs["boxes"][order].detach().numpy(), abs=1e-2)
    assert {one.label for one in said.boxes} == {model.config.id2label[int(i)] for i in theirs["labels"]}


def check_drawn(version: ModelVersion, recipe: Recipe, folder: Path) -> None:
    """Ask the pulled version for images by the command: the same seeds draw the same, however they are batched."""
    registry = ModelRegistry(recipe.publish.to.store())
    registry.pull(registry.version(version.name, version.version), folder)
    asked = ["predict", str(folder), "the invoice", "a crash", "--seed", "3", "--steps", "4"]
    for out, more in (("one", ["--batch-size", "1"]), ("two", [])):
        result = CliRunner().invoke(main, [*asked, "--out", str(folder.with_name(out)), *more])
        assert result.exit_code == 0, result.output
        line = result.output.splitlines()[0].split("\t")
        assert line == [str(folder.with_name(out) / "3-the-invoice.png"), "seed 3, 4 steps, guidance 3", "the invoice"]
    for name in ("3-the-invoice.png", "4-a-crash.png"):
        one, two = (np.asarray(Image.open(folder.with_name(out) / name), np.int16) for out in ("one", "two"))
        assert one.shape == (8, 8, 3)
        assert np.abs(one - two).max() <= 1  # of 255: sums of another batch are rounded otherwise


def check_completions(version: ModelVersion, recipe: Recipe, folder: Path) -> None:
    """Hold what `reglage predict` says against what stock transformers writes behind the prompt and its separator."""
    registry = ModelRegistry(recipe.publish.to.store())
    registry.pull(registry.version(version.name, version.version), folder)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    prompting, end = recipe.published_format().prompting, tokenizer.eos_token_id
    assert prompting is not None
    model.generation_config = GenerationConfig(max_new_tokens=8, eos_token_id=end, pad_token_id=end)
    prompts = ["the invoice and the card", "crash and freeze and reload again"]
    for prompt, said in zip(prompts, predict(folder, prompts, max_new_tokens=8), strict=True):
        ids = tokenizer(prompting.prefix + prompt + prompting.reads, return_tensors="pt")["input_ids"]
        ids = ids[:, :-1] if ids[0, -1] == end else ids  # the tiny tokenizer ends texts
        written = model.eval().generate(ids, attention_mask=torch.ones_like(ids))[0, ids.shape[1] :]
        assert said.model_dump() == {"text": tokenizer.decode(written, skip_special_tokens=True)}


def check_written(version: ModelVersion, recipe: Recipe, folder: Path) -> None:
    """Hold what `reglage predict` says against what stock transformers writes to sources behind the prefix."""
    registry = ModelRegistry(recipe.publish.to.store())
    registry.pull(registry.version(version.name, version.version), folder)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForSeq2SeqLM.from_pretrained(folder)
    prefix, end = getattr(recipe.published_format(), "prefix"), tokenizer.eos_token_id  # noqa: B009
    model.generation_config = GenerationConfig(
        max_new_tokens=8, num_beams=4, eos_token_id=end, pad_token_id=end, decoder_start_token_id=0
    )
    sources = ["the invoice and the card", "crash and freeze and reload again"]
    for source, said in zip(sources, predict(folder, sources, max_new_tokens=8), strict=True):
        inputs = tokenizer(prefix + source, return_tensors="pt", return_token_type_ids=False)
        written = model.eval().generate(**inputs)[0, 1:]
        assert said.model_dump() == {"text": tokenizer.decode(written, skip_special_tokens=True)}


def tiny_overrides(recipe: Recipe, folder: Path, s3_endpoint: str) -> list[str]:
    """Make a recipe small, with its rows and model in `folder`: what it shows stays as it is."""
    model, kind = folder / "tiny-model", recipe.kind(recipe.phases[0])
    if kind == "captioned_images":
        tiny_pipeline(model)
    elif kind == "boxed_images":
        tiny_detector(model)
    elif kind == "labeled_images":
        tiny_image_classifier(model, "efficientnet")
    else:
        hidden = 64 if any(phase.tuning.quantization for phase in recipe.phases) else 32  # one block of four bits
        write = tiny_text_to_text if KINDS[kind].decodes else tiny_chat_lm if KINDS[kind].language else tiny_classifier
        write(model, hidden=hidden)
    overrides = [f"model={{path: {model}}}", "compute={workers: 0, threads: 1}", "select.gates=[]"]
    for name, dataset in recipe.datasets.items():
        if isinstance(dataset.source, ImageFolder):
            write_images(folder / dataset.source.path)
            overrides.append(f"datasets.{name}.format.pixels=32")
            continue
        if dataset.format.kind == "captioned_image":
            assert isinstance(dataset.source, Files)
            where = folder / dataset.source.path
            tiny_captioned_rows(where.parent, 40, seed=len(overrides))
            overrides += [f"datasets.{name}.source.settle_seconds=0", "interpolation.alphas=[0.5]"]
            continue
        if dataset.format.kind == "boxed_image":
            assert isinstance(dataset.source, Files)
            tiny_boxed_rows(folder / dataset.source.path, 40, seed=[*recipe.datasets].index(name))
            continue
        overrides.append(f"datasets.{name}.format.max_tokens={96 if dataset.format.kind in CHATS else 32}")
        if dataset.format.kind == "question_answer":
            overrides.append(f"datasets.{name}.format.stride=8")
        if isinstance(dataset.source, InstalledText):
            some = ", ".join(dataset.source.libraries[:3])
            overrides += [
                f"datasets.{name}.source.libraries=[{some}]",
                f"datasets.{name}.source.rows_per_library={min(60, dataset.source.rows_per_library)}",
            ]
        if isinstance(dataset.source, Sql):
            write_database(folder / dataset.source.uri)
        if isinstance(dataset.source, Feedback):
            write_log(folder / dataset.source.path / "2026.jsonl")
        if isinstance(dataset.source, Files):
            path = dataset.source.path.replace("*", "2026")
            write_rows = ROWS.get(dataset.format.kind, write_tickets)
            if dataset.format.kind == "labeled_text" and (dataset.format.text, dataset.format.label) == (
                "text",
                "label",
            ):
                write_rows = write_texts
            write_rows(folder / path / "2026.jsonl" if path.endswith("/") else folder / path)
            overrides.append(f"datasets.{name}.source.settle_seconds=0")  # or what was just written would wait
    for name, evaluation in recipe.evaluations.items():
        overrides.append(f"evaluations.{name}.resamples=100")
        overrides.append(f"evaluations.{name}.max_new_tokens={min(8, evaluation.max_new_tokens)}")
    if recipe.prune:
        overrides.append("prune.layers=1")  # of the tiny model's two
    for i, phase in enumerate(recipe.phases):
        overrides.append(f"phases.{i}.optimizer.epochs={min(2.0, phase.optimizer.epochs)}")
        if phase.objective.kind == "cosine":
            overrides.append(f"phases.{i}.objective.threshold=0")  # a tiny model is sure of nothing
        if getattr(phase.objective, "writes", False):
            overrides += [f"phases.{i}.objective.max_new_tokens=6", f"phases.{i}.objective.group_size=2"]
        if isinstance(phase.tuning, FrozenLayers):
            overrides.append(f"phases.{i}.tuning.layers=1")  # of the tiny model's two
        if phase.principles:
            (folder / "principles.txt").write_text("please\na card\nthe team\n")
            asked = {"file": str(folder / "principles.txt"), "critique": "is it {principle}", "keep_cut": True}
            asked |= {"revision": "make it {principle}", "max_new_tokens": 6}  # of the 128 tokens that it reads
            overrides += [f"phases.{i}.principles.{name}={json.dumps(value)}" for name, value in asked.items()]
        for name, beside in phase.companions.items():
            if beside.model:
                teacher = tiny_chat_lm(folder / "tiny-teacher", seed=1)
                overrides.append(f"phases.{i}.companions.{name}={{model: {{path: {teacher}}}}}")
        source = recipe.datasets[next(iter(phase.parts))].source
        if isinstance(phase.tuning, ZeroShot) and isinstance(source, InstalledText):
            said = {name: list(phase.tuning.sentences[name]) for name in source.libraries[:3]}
            overrides.append(f"phases.{i}.tuning.sentences={json.dumps(said)}")
    if isinstance(recipe.publish.to, S3):
        return [*overrides, f"publish.to.endpoint_url={s3_endpoint}"]
    return [*overrides, f"publish.to={{kind: folder, path: {folder / 'registry'}}}"]


def write_tickets(path: Path) -> None:
    """Write rows as the comments in the recipes that read files show them."""
    write_jsonl(
        path,
        [
            {
                "body": row["text"],
                "queue": row["label"],
                "text": row["text"],
                "section": row["label"],
                "tags": [label for label in LABELS[: i % 3] if label != row["label"]],
                "urgency": 1 + i % 9 / 2,
                "question": row["text"],
                "answer": f"please ask the {row['label']} team",
                "opened": f"2026-{1 + int(row['day']) // 28:02d}-{1 + int(row['day']) % 28:02d}",
                "channel": ("mail", "chat")[int(row["day"]) % 2],
                "id": i,
                "updated": "2026-03-01T09:30:00Z",
            }
            for i, row in enumerate(tiny_rows(150, seed=int(path.stem == "weak")))
        ],
    )


def write_database(path: Path) -> None:
    """Write the tables that the comment in recipes/sql.yaml shows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("create table tickets (id integer primary key, channel text, opened text, queue_id integer)")
        db.execute("create table queues (id integer primary key, name text)")
        db.execute("create table messages (ticket_id integer, body text)")
        db.executemany("insert into queues values (?, ?)", list(enumerate(LABELS)))
        for i, row in enumerate(tiny_rows(150, seed=int(path.stem == "weak"))):
            channel = ("mail", "chat", None)[i % 3]
            db.execute("insert into tickets values (?, ?, '2026-03-01', ?)", (i, channel, LABELS.index(row["label"])))
            db.execute("insert into messages values (?, ?)", (i, row["text"]))


def write_texts(path: Path) -> None:
    """Write rows as the comment in recipes/continual.yaml shows them; no file has the rows of another."""
    rows = tiny_rows(60, seed=zlib.crc32(path.name.encode()))
    write_jsonl(path, [{"id": i, "text": row["text"], "label": row["label"]} for i, row in enumerate(rows)])


def write_log(path: Path) -> None:
    """Write lines as the comment in recipes/feedback.yaml shows them."""
    rows = [{"request_id": i, "prompt": row["text"], "label": row["label"]} for i, row in enumerate(tiny_rows(150))]
    first = [{**row, "answer": f"ask the {row['label']} team", "time": "2026-03-01T09:30:00Z"} for row in rows]
    for row in first:
        row["thumb"] = int(row["request_id"]) % 3 > 0
    late = [
        {"request_id": row["request_id"], "correction": f"please ask the {row['label']} team", "time": "2026-03-02"}
        for row in rows
        if int(row["request_id"]) % 2
    ]
    write_jsonl(path, [*first, *late])


def write_images(folder: Path) -> None:
    """Write images whose folder is their label; no theme has the images of another."""
    for i, row in enumerate(tiny_image_rows(60, seed=zlib.crc32(folder.name.encode()))):
        path = folder / row["label"] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(row["image"].partition(",")[2]))


def write_tagged(path: Path) -> None:
    """Write rows as the comments in the recipes that tag words show them; no file has the rows of another."""
    names = {"PAY": "PER", "BUG": "LOC"}
    rows = tiny_tagged_rows(120, seed=zlib.crc32(path.name.encode()))
    spelt = [{**row, "tags": [tag[:2] + names.get(tag[2:], "") for tag in row["tags"]]} for row in rows]
    write_jsonl(path, [{**row, "module": f"a:{i % 20}"} for i, row in enumerate(spelt)])


def write_questions(path: Path) -> None:
    """Write rows as the comment in recipes/question_answering.yaml shows them."""
    write_jsonl(path, tiny_questions(120, seed=zlib.crc32(path.name.encode())))


def write_chats(path: Path) -> None:
    """Write rows as the comment in recipes/chat.yaml shows them."""
    write_jsonl(path, tiny_chats(60, seed=zlib.crc32(path.name.encode())))


def write_plain(path: Path) -> None:
    """Write texts without labels; no file has the rows of another."""
    write_jsonl(path, [{"text": row["text"]} for row in tiny_rows(60, seed=zlib.crc32(path.name.encode()))])


def write_pairs(path: Path) -> None:
    """Write rows as the comment in recipes/retrieval.yaml shows them."""
    write_jsonl(path, [{"synopsis": row["anchor"], "description": row["positive"]} for row in tiny_pairs(60)])


def write_translations(path: Path) -> None:
    """Write rows as the comment in recipes/translation.yaml shows them."""
    write_jsonl(path, [{"en": row["source"], "fr": row["target"]} for row in tiny_sources(150)])


def write_comparisons(path: Path) -> None:
    """Write rows as the comment in recipes/reward.yaml shows them; no file has the rows of another."""
    rows = tiny_comparisons(90, seed=zlib.crc32(path.name.encode()))
    write_jsonl(
        path, [{"id": i, **row, "gap": "wide" if row["margin"] > 1 else "narrow"} for i, row in enumerate(rows)]
    )


def write_preferences(path: Path) -> None:
    """Write rows as the comment in recipes/dpo.yaml shows them."""
    rows = tiny_preferences(60, seed=zlib.crc32(path.name.encode()))
    write_jsonl(path, [{**row, "prompt": [{"role": "user", "content": row["prompt"]}]} for row in rows])


CHATS = ("chat", "preference", "thumb")
"""Formats of longer rows."""
ROWS = {
    "chat": write_chats,
    "compared_texts": write_comparisons,
    "masked_text": write_plain,
    "preference": write_preferences,
    "question_answer": write_questions,
    "retrieval_pairs": write_pairs,
    "tagged_words": write_tagged,
    "text_to_text": write_translations,
}
"""How the rows of a format look; the others' are tickets."""
