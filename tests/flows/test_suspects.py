"""Rows whose labels may be wrong, from a run to the row itself: report, file, evaluate, look."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from flows.command_line.main import main
from flows.run.record import RunRecord
from flows.run.steps import inputs, steps
from ftlib.evaluation.suspects import Suspect
from ftlib.recipe.file import load_recipe
from ftlib.report.suspects import found_suspects
from ftlib.stages.step import walk
from ftlib.testing import tiny_causal_lm, tiny_recipe, tiny_rows, write_jsonl
from ftlib.workspace import Workspace

LONELY = ["interpolation={kind: off}", "phases.tune.tuning={kind: linear_probe}"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list[Suspect]]:
    """Run the tiny recipe on rows of which each tenth has another row's label; return recipe, work and suspects."""
    folder = tmp_path_factory.mktemp("suspects")
    path = tiny_recipe(folder)
    rows = tiny_rows(200)
    labels = sorted({str(row["label"]) for row in rows})
    planted = [
        {**row, "label": labels[(labels.index(str(row["label"])) + 1) % len(labels)]} if i % 10 == 0 else row
        for i, row in enumerate(rows)
    ]
    write_jsonl(folder / "home.jsonl", planted)
    recipe, work = load_recipe(path, LONELY), Workspace(folder / "work")
    outcome = walk(steps(recipe, work, inputs(recipe, work)), lambda step: step.stage(step.job, work))
    assert outcome is not None
    evidence, report, result = outcome
    RunRecord(evidence=evidence, steps=(), report=report, result=result, versions={}).write(work)
    return path, folder / "work", found_suspects(evidence, work) or []


@pytest.mark.slow
def test_the_run_lists_them_by_id_and_says_no_text(run: tuple[Path, Path, list[Suspect]]) -> None:
    path, work, found = run
    assert found
    assert {one.split for one in found} <= {"validation", "test"}
    told = [*csv.DictReader(io.StringIO((work / "runs/tiny/suspects.csv").read_text("utf-8")))]
    assert [(row["row_id"], row["given"], row["likelier"]) for row in told] == [
        (one.row_id, one.given, one.likelier) for one in found
    ]
    page = (work / "runs/tiny/report.html").read_text("utf-8")
    assert "Labels that may be wrong" in page
    assert found[0].row_id in page
    texts = {json.loads(line)["text"] for name in ("home", "away") for line in (path.parent / f"{name}.jsonl").open()}
    assert not any(text in page for text in texts)


@pytest.mark.slow
def test_look_shows_one_and_evaluate_lists_them_for_a_folder(
    run: tuple[Path, Path, list[Suspect]], tmp_path: Path
) -> None:
    path, work, found = run
    one, run_options = found[0], ["--work", str(work), *(f"--set={change}" for change in LONELY)]
    asked = ["look", str(path), "--dataset", one.dataset, "--split", one.split, "--row", one.row_id, "--json"]
    shown = json.loads(CliRunner().invoke(main, [*asked, *run_options]).stdout)
    assert [row["row"] for row in shown["rows"]] == [one.row_id]
    assert shown["rows"][0]["learns"].endswith(one.given)
    absent = CliRunner().invoke(main, [*asked[:-2], "nothing", "--json", *run_options])
    assert absent.exit_code == 3
    assert "has no row nothing" in json.loads(absent.stdout)["error"]["message"]

    listed = tmp_path / "lists" / "suspects.csv"
    version = f"tiny-router@1 --registry {path.parent / 'registry'}".split()
    evaluated = ["evaluate", *version, "--recipe", str(path), "--suspects", str(listed)]
    done = CliRunner().invoke(main, [*evaluated, *run_options])
    assert done.exit_code == 0, done.output
    ids = [row["row_id"] for row in csv.DictReader(io.StringIO(listed.read_text("utf-8")))]
    assert ids == [suspect.row_id for suspect in found if suspect.split == "test"]


@pytest.mark.slow
def test_rows_without_labels_have_no_list(tmp_path: Path) -> None:
    base = tiny_causal_lm(tmp_path / "base")
    write_jsonl(tmp_path / "rows.jsonl", tiny_rows(40))
    recipe = tmp_path / "texts.yaml"
    recipe.write_text(f"""
name: texts
model: {{path: {base}}}
datasets:
  texts:
    source: {{kind: files, path: {tmp_path}/rows.jsonl}}
    format: {{kind: plain_text, text: text, max_tokens: 16}}
phases:
  - {{name: tune, dataset: texts, objective: {{kind: causal_lm}}, tuning: {{kind: full}}}}
evaluations: {{texts: {{dataset: texts, metrics: [{{kind: perplexity}}], resamples: 100}}}}
select: {{by: texts/perplexity}}
publish: {{name: texts}}
compute: {{workers: 0, threads: 1}}
""")
    listed = tmp_path / "suspects.csv"
    asked = ["evaluate", str(base), "--recipe", str(recipe), "--work", str(tmp_path / "work"), "--json"]
    done = CliRunner().invoke(main, [*asked, "--suspects", str(listed)])
    assert done.exit_code == 2
    assert "needs rows of one label each" in json.loads(done.stdout)["error"]["message"]
    assert not listed.exists()
