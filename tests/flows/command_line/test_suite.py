"""`reglage suite` with the real lm-evaluation-harness, in an environment of its own that sees this one's packages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from transformers import AutoModelForCausalLM, AutoTokenizer

from flows.command_line.main import main
from ftlib.testing import tiny_checkpoint, write_jsonl

ROOT = Path(__file__).parents[3]
CHOICES = [" refund", " crash", " offer"]
ROWS = [{"question": f"the invoice {i} about my order", "choices": CHOICES, "answer": i % 3} for i in range(24)]
TASK = """
task: queues
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
target_delimiter: ""
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two language models with a tokenizer that ends no text, one with the usual one, and a task."""
    folder = tmp_path_factory.mktemp("suite")
    start = tiny_checkpoint(folder / "one", labels=())
    tiny_checkpoint(folder / "two", labels=(), start=start, seed=1)
    tiny_checkpoint(folder / "ending", labels=())
    for name in ("one", "two"):
        for file, change in (
            ("tokenizer.json", {"post_processor": None}),
            ("tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"}),
        ):
            path = folder / name / "model" / file
            path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    (folder / "tasks").mkdir()
    (folder / "tasks" / "queues.yaml").write_text(TASK.format(rows=write_jsonl(folder / "rows.jsonl", ROWS)))
    return folder


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with lm-eval, under the constraints that everything else was tested with."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    (site / "outer.pth").write_text(sysconfig.get_path("purelib") + "\n")
    install = ["install", "--quiet", "-c", str(ROOT / "requirements.lock"), "lm-eval==0.4.13"]
    subprocess.run([folder / "bin" / "python", "-m", "pip", *install], check=True)
    return folder / "bin" / "python"


def by_hand(folder: Path) -> list[int]:
    """Return the most likely choice of every row, by plain transformers."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    answers = []
    for row in ROWS:
        scores = []
        for choice in CHOICES:
            prompt = tokenizer(row["question"])["input_ids"]
            whole = tokenizer(str(row["question"]) + choice)["input_ids"]
            with torch.no_grad():
                logs = model(input_ids=torch.tensor([whole[:-1]])).logits[0].log_softmax(-1)
            scores.append(sum(float(logs[i - 1, whole[i]]) for i in range(len(prompt), len(whole))))
        answers.append(int(np.argmax(scores)))
    return answers


@pytest.mark.slow
def test_a_task_is_asked_example_by_example_and_models_are_compared(place: Path, python: Path) -> None:
    words = ["suite", "one", "two", "--task", "queues", "--tasks-from", "tasks", "--json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "HF_HOME": str(place / "home")}
    done = subprocess.run(
        [python, "-m", "flows.command_line.main", *words],
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert "fatal" not in done.stderr
    assert "it/s" not in done.stderr
    said = json.loads(done.stdout)
    one, two = said["measured"]
    for cell, model in ((one, "one"), (two, "two")):
        right = [
            float(answer == row["answer"]) for answer, row in zip(by_hand(place / model / "model"), ROWS, strict=True)
        ]
        assert list(cell["examples"].values()) == right
        assert cell["value"] == pytest.approx(np.mean(right))
        assert cell["low"] <= cell["value"] <= cell["high"]
    (difference,) = said["differences"]
    assert difference["estimate"]["value"] == pytest.approx(two["value"] - one["value"])
    assert len({cell["value"] for cell in said["measured"]}) == 2
    for model, task, code, message in (
        ("one", "queue", 2, "no task 'queue' in lm-eval and tasks"),
        ("ending", "queues", 4, "the tokenizer puts '[SEP]' behind every text"),
    ):
        wrong = [python, "-m", "flows.command_line.main", "suite", model, "--task", task, "--tasks-from", "tasks"]
        refused = subprocess.run(wrong, cwd=place, env=environment, capture_output=True, text=True, timeout=240)
        assert (refused.returncode, message in refused.stderr) == (code, True), refused.stderr


def test_without_the_harness_one_line_says_what_to_install(place: Path) -> None:
    result = CliRunner().invoke(main, ["suite", str(place / "one"), "--task", "queues"])
    assert result.exit_code == 2
    assert "pip install 'reglage[lm-eval]'" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
