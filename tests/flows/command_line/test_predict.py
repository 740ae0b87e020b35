"""From a recipe to a published version of each kind that is no classifier of texts, and to its answers."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from transformers import AutoTokenizer

from flows.command_line.main import main
from flows.finetune import finetune
from ftlib.kinds.outcomes_file import read_outcomes
from ftlib.registry import ModelRegistry
from ftlib.registry.outcome import ModelVersion
from ftlib.storage import LocalStore
from ftlib.testing import tiny_classifier, tiny_questions, tiny_tagged_rows, write_jsonl
from tests.recipes.test_recipes import PlainRunner

TAGGED = """
name: tags
model: {{path: {folder}/model}}
datasets:
  mail:
    source: {{kind: files, path: {folder}/rows.jsonl}}
    format: {{kind: tagged_words, words: words, tags: tags, max_tokens: 24}}
phases:
  - name: tune
    dataset: mail
    objective: {{kind: token_classification}}
    tuning: {{kind: full}}
    optimizer: {{epochs: 12, batch_size: 16, learning_rate: 5e-3}}
evaluations:
  mail: {{dataset: mail, metrics: [{{kind: entity_f1}}, {{kind: tag_accuracy}}], resamples: 100}}
interpolation: {{kind: "off"}}
select: {{by: mail/entity_f1}}
publish: {{name: tags, to: {{kind: folder, path: {folder}/registry}}}}
compute: {{workers: 0, threads: 1}}
"""

QUESTIONS = """
name: answers
model: {{path: {folder}/model}}
datasets:
  mail:
    source: {{kind: files, path: {folder}/rows.jsonl}}
    format: {{kind: question_answer, question: question, context: context, answers: answers, max_tokens: 24, stride: 6}}
phases:
  - name: tune
    dataset: mail
    objective: {{kind: answer_span}}
    tuning: {{kind: full}}
    optimizer: {{epochs: 14, batch_size: 16, learning_rate: 5e-3}}
evaluations:
  mail: {{dataset: mail, metrics: [{{kind: answer_f1}}, {{kind: answer_exact_match}}], resamples: 100}}
interpolation: {{kind: "off"}}
select: {{by: mail/answer_f1}}
publish: {{name: answers, to: {{kind: folder, path: {folder}/registry}}}}
compute: {{workers: 0, threads: 1}}
"""


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a recipe in the folder; return the run's record and the folder of what it published."""
    monkeypatch.setattr("flows.run.tracked.Runner", PlainRunner)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def run(recipe: str) -> tuple[Any, Path]:
        tiny_classifier(tmp_path / "model")
        (tmp_path / "recipe.yaml").write_text(recipe.format(folder=tmp_path), encoding="utf-8")
        record: Any = finetune.fn(str(tmp_path / "recipe.yaml"), work=str(tmp_path / "work")).data
        assert isinstance(record.result, ModelVersion)
        registry = ModelRegistry(LocalStore(tmp_path / "registry"))
        registry.pull(registry.version(record.result.name, 1), tmp_path / "out")
        return record, tmp_path / "out"

    return run


def predict(folder: Path, name: str, lines: str, *more: str) -> str:
    words = ["predict", name, "--registry", str(folder.parent / "registry"), *more]
    result = CliRunner().invoke(main, words, input=lines)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_tags_from_a_recipe_to_entities_in_lines(tmp_path: Path, published: Any) -> None:
    write_jsonl(tmp_path / "rows.jsonl", tiny_tagged_rows(240))
    record, folder = published(TAGGED)
    assert record.evidence.measured("tune")["mail"].metrics["entity_f1"].value > 0.4
    assert "pipeline_tag: token-classification" in (folder / "README.md").read_text()

    text = "please call about the invoice payment today and again the crash error is there"
    long = f"{text} {text}"
    said = json.loads(predict(folder, "tags", f"{text}\n\n{long}\n", "--json"))["predictions"]
    seen = AutoTokenizer.from_pretrained(folder)(long, truncation=True, max_length=24).word_ids()
    assert [(answer["words"], answer["read"]) for answer in said] == [(14, 14), (0, 0), (28, len({*seen} - {None}))]
    # transformers' own pipeline, which knows nothing of us, on what fits
    code = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)[0]
    ran: dict[str, Any] = {}
    exec(compile(code.replace("path/to/this/folder", str(folder)), "card", "exec"), ran)
    theirs = [(found["entity_group"], found["word"]) for found in ran["model"](text)]
    assert theirs
    assert [(found["type"], found["text"]) for found in said[0]["entities"]] == theirs
    lines = predict(folder, "tags", f"{text}\n\n").splitlines()
    assert lines == ["\t".join(f"{type}:{words}" for type, words in theirs), ""]
    assert all(0 < found["probability"] <= 1 for found in said[2]["entities"])


@pytest.mark.slow
def test_questions_from_a_recipe_to_answers_to_lines(tmp_path: Path, published: Any) -> None:
    write_jsonl(tmp_path / "rows.jsonl", tiny_questions(240))
    record, folder = published(QUESTIONS)
    assert record.evidence.measured("tune")["mail"].metrics["answer_f1"].value > 0.25
    card = (folder / "README.md").read_text()
    assert "pipeline_tag: question-answering" in card
    assert "a longer one is read in windows" in card

    # the published weights, asked by predict, answer the test rows as the table of the run says
    cell = record.evidence.measured("tune")["mail"]
    table: Any = read_outcomes(tmp_path / "work" / cell.outcomes)
    rows = [{"question": row["question"], "context": row["context"]} for row in tiny_questions(240)]
    asked = "".join(json.dumps(row) + "\n" for row in rows)
    said = json.loads(predict(folder, "answers", asked, "--json"))["predictions"]
    assert all(0 < answer["probability"] <= 1 for answer in said)
    assert all(answer["answer"] in row["context"] for answer, row in zip(said, rows, strict=True))
    answers = [
        (row["answers"]["text"][0], found["answer"]) for row, found in zip(tiny_questions(240), said, strict=True)
    ]
    assert Counter((gold[0], found) for gold, found in zip(table.answers, table.predicted, strict=True)) <= Counter(
        answers
    )
    first, second = predict(folder, "answers", asked).splitlines()[:2]
    assert [first.split("\t")[0], second.split("\t")[0]] == [answer["answer"] for answer in said[:2]]

    # `reglage evaluate` on the folder says the same of the same rows, and refuses a model that cannot answer
    words = ["evaluate", "--recipe", str(tmp_path / "recipe.yaml"), "--work", str(tmp_path / "work")]
    again = json.loads(CliRunner().invoke(main, [*words, str(folder), "--json"]).stdout)["measured"][0]
    assert again["metrics"] == {name: value.model_dump() for name, value in cell.metrics.items()}
    bare = CliRunner().invoke(main, [*words, str(tmp_path / "model")])
    assert "has no head for 'spans' rows to measure; give a model that was trained for them" in bare.stderr

    assert all(answer["null_score_diff"] is None for answer in said)
    words = ["predict", "answers", "--registry", str(tmp_path / "registry")]
    refused = CliRunner().invoke(main, words, input="where is it?\n")
    assert refused.exit_code == 3
    assert "a question is a JSON object on a line" in refused.stderr
    assert refused.stderr.count("\n") == 1


@pytest.mark.slow
def test_questions_without_an_answer_from_a_recipe_to_saying_so(tmp_path: Path, published: Any) -> None:
    rows = tiny_questions(240, unanswerable=3)
    write_jsonl(tmp_path / "rows.jsonl", rows)
    metric = "{{kind: answer_f1, null_score_diff_threshold: -0.5}}"
    recipe = QUESTIONS.replace("stride: 6", "stride: 6, unanswerable: keep").replace("{{kind: answer_f1}}", metric)
    record, folder = published(recipe)
    cell = record.evidence.measured("tune")["mail"]
    assert cell.metrics["answer_f1"].value > 0.4
    table: Any = read_outcomes(tmp_path / "work" / cell.outcomes)
    silent = table.silent(-0.5)
    assert silent.any()
    assert not silent.all()
    assert (silent == table.unanswerable).mean() > 0.9

    # predict goes by the threshold of the metric that chose the version, and says of the test rows what the table does
    asked = "".join(json.dumps({"question": row["question"], "context": row["context"]}) + "\n" for row in rows)
    said = json.loads(predict(folder, "answers", asked, "--json"))["predictions"]
    assert all((answer["answer"] is None) == (answer["null_score_diff"] > -0.5) for answer in said)
    assert all(0 < answer["probability"] <= 1 for answer in said)
    texts = [None if none else text for none, text in zip(silent, table.predicted, strict=True)]
    given: list[Any] = [row["answers"] for row in rows]
    answered = Counter((tuple(gold["text"]), found["answer"]) for gold, found in zip(given, said, strict=True))
    assert Counter(zip(table.answers, texts, strict=True)) <= answered
    lines = predict(folder, "answers", asked).splitlines()
    assert [line.startswith("(no answer)\t") for line in lines] == [answer["answer"] is None for answer in said]
    assert "says that there is no answer" in (folder / "README.md").read_text()
    report = next((tmp_path / "work" / "stages" / "report").glob("*/report.md")).read_text()
    assert "| no answer |" in report
