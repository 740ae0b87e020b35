"""Answers that a frozen model writes before a phase, against stock transformers' generate, row by row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from flows.run.steps import inputs, steps
from ftlib.config import BatchKind
from ftlib.data.datasets import PreparedDataset
from ftlib.data.formats.chat import Chat
from ftlib.data.formats.prompt_completion import PromptCompletion
from ftlib.data.formats.text_to_text import TextToText
from ftlib.data.prepared import split_file
from ftlib.errors import DataError, ModelError, RecipeError
from ftlib.kinds.loading import load_processor
from ftlib.kinds.open_split import open_split
from ftlib.models.folder import find_model
from ftlib.models.reference import ModelRef
from ftlib.recipe.file import load_recipe
from ftlib.registry import ModelRegistry
from ftlib.registry.outcome import ModelVersion
from ftlib.stages.answer import AnswerJob, answer
from ftlib.stages.step import walk
from ftlib.testing import tiny_chat_lm, tiny_chats, tiny_prepared_as, tiny_sources, tiny_text_to_text, write_jsonl
from ftlib.training.compute import Compute
from ftlib.workspace import Workspace

FORMATS: dict[BatchKind, Any] = {
    "completions": PromptCompletion(prompt="source", completion="target", max_tokens=60),
    "chats": Chat(messages="messages", max_tokens=120),
    "text_to_text": TextToText(source="source", target="target", max_tokens=60),
}
MOST = 6


def teacher_of(folder: Path, kind: BatchKind) -> Path:
    """Write a model whose weights are large enough that what it writes differs from row to row."""
    made = tiny_text_to_text(folder) if kind == "text_to_text" else tiny_chat_lm(folder)
    auto: Any = AutoModelForSeq2SeqLM if kind == "text_to_text" else AutoModelForCausalLM
    model = auto.from_pretrained(made)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(6.0)
    model.save_pretrained(made)
    return made


def prepared(folder: Path, kind: BatchKind, model: Path) -> PreparedDataset:
    rows: Any = tiny_chats(12) if kind == "chats" else tiny_sources(12)
    data = tiny_prepared_as(
        folder, FORMATS[kind], {"train": rows[:8], "validation": rows[8:10], "test": rows[10:]}, load_processor(model)
    )
    return data.model_copy(update={"tokenizer": find_model(ModelRef(path=str(model))).tokenizer})


def job_of(model: Path, data: PreparedDataset, **changes: object) -> AnswerJob:
    found = find_model(ModelRef(path=str(model)))
    asked: dict[str, Any] = {"max_new_tokens": MOST, "num_beams": 1, "tokenizer": found.tokenizer, **changes}
    return AnswerJob(name="rows", model=found, data=data, compute=Compute(workers=0, threads=1), **asked)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("beams", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_rows_teach_what_stock_generate_writes_behind_their_prompts(
    tmp_path: Path, kind: BatchKind, beams: int
) -> None:
    folder = teacher_of(tmp_path / "model", kind)
    data = prepared(tmp_path / "data", kind, folder)
    made = answer(job_of(folder, data, num_beams=beams), Workspace(tmp_path / "work"))
    auto: Any = AutoModelForSeq2SeqLM if kind == "text_to_text" else AutoModelForCausalLM
    model, tokenizer = auto.from_pretrained(folder).eval(), load_processor(folder).tokenizer
    before, after = (open_split(split_file(one.path, "train"), ()) for one in (data, made))
    assert after.row_ids == before.row_ids
    for row in range(len(before)):
        old, new = before.tokens(row).tolist(), after.tokens(row).tolist()
        targets: Any = before.targets
        prompt = old[: targets.places[row][-2] if kind == "chats" else len(old) - int(before.supervised[row])]
        given = _source(data, row) if kind == "text_to_text" else prompt
        written = model.generate(
            input_ids=torch.tensor([given]),
            attention_mask=torch.ones(1, len(given), dtype=torch.int64),
            max_new_tokens=MOST,
            num_beams=beams,
            do_sample=False,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.eos_token_id,
            **({"decoder_start_token_id": model.config.decoder_start_token_id} if kind == "text_to_text" else {}),
        )[0].tolist()
        wanted = written[1:] if kind == "text_to_text" else written[len(given) :]
        if tokenizer.eos_token_id in wanted:
            wanted = wanted[: wanted.index(tokenizer.eos_token_id) + 1]
        assert new == prompt + wanted
        if kind == "chats":
            places: Any = after.targets
            assert places.places[row][:-2] == targets.places[row][:-2]
            assert places.places[row][-2:] == [len(prompt), len(new)]
        else:
            assert after.supervised[row] == len(wanted)
    assert split_file(made.path, "test").read_bytes() == split_file(data.path, "test").read_bytes()
    assert made.splits["train"].supervised == int(after.supervised.sum())
    assert made.splits["train"].tokens == int(after.sizes.sum())
    assert made.content != data.content


def _source(data: PreparedDataset, row: int) -> list[int]:
    table = pa.ipc.open_file(pa.memory_map(str(split_file(data.path, "train")))).read_all()
    return table["input_ids"][row].as_py()


def test_what_cannot_be_written_is_said_in_one_line(tmp_path: Path) -> None:
    folder = teacher_of(tmp_path / "model", "completions")
    data, work = prepared(tmp_path / "data", "completions", folder), Workspace(tmp_path / "work")
    with pytest.raises(DataError, match=r"answers to rows: after a prompt of \d+ tokens, max_new_tokens: 5000"):
        answer(job_of(folder, data, max_new_tokens=5000), work)
    with pytest.raises(ModelError, match="answer rows: its tokenizer or image processor is not the model's"):
        answer(job_of(folder, data, tokenizer="another"), work)


RECIPE = """
name: written
model: {{path: {folder}/student}}
datasets:
  rows:
    source: {{kind: files, path: {folder}/rows.jsonl}}
    format: {{kind: prompt_completion, prompt: source, completion: target, max_tokens: 60}}
    split: {{validation: 0.2, test: 0.2}}
phases:
  - name: tune
    dataset: rows
    answers: {{model: {{path: {folder}/teacher}}, max_new_tokens: 4}}
    objective: {{kind: completion}}
    tuning: {{kind: full}}
    optimizer: {{epochs: 1, learning_rate: 1e-3}}
evaluations:
  rows: {{dataset: rows, metrics: [{{kind: perplexity}}], resamples: 100}}
select: {{by: rows/perplexity}}
publish: {{name: student, to: {{kind: folder, path: {folder}/registry}}}}
compute: {{workers: 0, threads: 1}}
"""


def written_recipe(folder: Path) -> Path:
    write_jsonl(folder / "rows.jsonl", tiny_sources(60))
    tiny_chat_lm(folder / "student")
    teacher_of(folder / "teacher", "completions")
    (folder / "written.yaml").write_text(RECIPE.format(folder=folder))
    return folder / "written.yaml"


@pytest.mark.slow
def test_a_recipe_learns_them_and_its_version_says_whose_they_are(tmp_path: Path) -> None:
    recipe, work = load_recipe(written_recipe(tmp_path)), Workspace(tmp_path / "work")
    made: dict[str, Any] = {}

    def make(step: Any) -> Any:
        made[step.label] = step.stage(step.job, work)
        return made[step.label]

    outcome = walk(steps(recipe, work, inputs(recipe, work)), make)
    assert outcome is not None
    assert isinstance(outcome.result, ModelVersion)
    labels = [*made]
    assert labels.index("answer rows for tune") == labels.index("train tune") - 1
    assert made["train tune"].facts["supervised"] == made["answer rows for tune"].splits["train"].supervised
    registry = ModelRegistry(recipe.publish.to.store())
    said: Any = registry.manifest(registry.version("student")).lineage["companions"]
    teacher = find_model(ModelRef(path=str(tmp_path / "teacher")))
    assert [(one["phase"], one["use"], one["weights"]) for one in said] == [("tune", "answers", teacher.weights)]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["phases.tune.answers={phase: gone}"], "answers: 'gone' is no end of an earlier phase; there are base"),
        (["phases.tune.answers={max_new_tokens: 3}"], "give `model` or `phase`, got neither"),
        (["phases.tune.answers.max_new_tokens=0"], "greater than 0"),
        (
            [
                "datasets.rows.format={kind: labeled_text, text: source, label: target}",
                "phases.tune.objective={kind: classification}",
                "evaluations.rows.metrics=[{kind: accuracy}]",
                "select.by=rows/accuracy",
            ],
            "answers: rows of 'rows' are 'labeled', which have no prompts to go on from",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_runs(tmp_path: Path, changes: list[str], said: str) -> None:
    (tmp_path / "written.yaml").write_text(RECIPE.format(folder=tmp_path))
    with pytest.raises(RecipeError, match=said):
        load_recipe(tmp_path / "written.yaml", changes)
