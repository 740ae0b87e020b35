"""The how-tos in docs/add are true: a test does what they say to a copy of the tree, which then runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from ftlib.testing import tiny_classifier, tiny_rows, tiny_scored_rows, write_jsonl
from tests.docs.pages import ROOT, changed, follow, fragment

PAGES = ("source", "format", "objective", "tuning", "penalty", "optimiser", "metric", "interpolation", "place")

RECIPE = """
name: followed
model: {path: model}
datasets: {tickets: {}}
phases:
  - {name: probe, dataset: tickets, objective: {kind: classification}, tuning: {kind: linear_probe, l2: 0.01}}
  - {name: tune, dataset: tickets, dropout: 0, precision: fp32}
evaluations: {tickets: {dataset: tickets, resamples: 100}}
select: {by: tickets/top_two_accuracy}
compute: {workers: 0, threads: 1}
"""


def recipe(folder: Path) -> None:
    """Write a recipe that holds what every page says that a recipe may hold."""
    told = {page: yaml.safe_load(fragment(ROOT / f"docs/add/{page}.md")) for page in PAGES}
    whole = yaml.safe_load(RECIPE)
    whole["datasets"]["tickets"] |= told["source"] | told["format"]
    for page in ("objective", "tuning", "penalty", "optimiser"):
        whole["phases"][1] |= told[page]
    whole["evaluations"]["tickets"] |= told["metric"]
    whole |= told["interpolation"] | told["place"]
    (folder / "recipe.yaml").write_text(yaml.safe_dump(whole))


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tree")
    for package in ("ftlib", "flows"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    for page in (*PAGES, "kind"):
        follow(ROOT / f"docs/add/{page}.md", folder)
    return folder


@pytest.fixture(scope="module")
def followed(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a run of the changed tree comes to."""
    folder = tmp_path_factory.mktemp("run")
    tiny_classifier(folder / "model")
    rows = [
        {"subject": f"Case {i}", "body": row["text"], "queue": row["label"]} for i, row in enumerate(tiny_rows(120))
    ]
    rows.append({"subject": "No body", "body": "", "queue": "bug"})
    lines = ("\n".join(["[[row]]", *(f"{name} = {json.dumps(value)}" for name, value in row.items())]) for row in rows)
    (folder / "tickets.toml").write_text("\n".join(lines))
    recipe(folder)
    return run("follow_pages.py", tree, folder)


def run(script: str, tree: Path, folder: Path, *texts: str) -> dict[str, Any]:
    """Run a script against the changed tree; it prints one JSON object."""
    done = subprocess.run(
        [sys.executable, ROOT / "tests/docs" / script, "recipe.yaml", "work", *texts],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(tree), "HOME": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_the_source_reads_every_row(followed: dict[str, Any]) -> None:
    assert followed["rows"][0] == 121


def test_the_format_lays_rows_out_as_the_stock_tokenizer(followed: dict[str, Any]) -> None:
    rows, as_the_tokenizer = followed["read"]
    assert rows == as_the_tokenizer > 10


def test_the_objective_bears_wrong_labels(followed: dict[str, Any]) -> None:
    here, plain = followed["losses"]
    assert len(here) > 3
    assert here == pytest.approx(plain, rel=1e-5)


def test_the_penalty_is_the_lasso(followed: dict[str, Any]) -> None:
    here, plain = followed["penalties"]
    assert here == pytest.approx(plain, rel=1e-5)


def test_the_tuning_moves_biases_and_the_head_alone(followed: dict[str, Any]) -> None:
    assert all(name.endswith(".bias") or name.startswith("classifier") for name in followed["moved"])
    assert len(followed["moved"]) > 10


def test_the_optimiser_steps_as_torch_s_own(followed: dict[str, Any]) -> None:
    assert followed["away"] < 1e-4  # of steps of 1e-3: where lasso pulls a weight over 0, rounding decides the sign


def test_the_metric_is_scikit_learn_s(followed: dict[str, Any]) -> None:
    here, theirs = followed["metric"]
    assert here == pytest.approx(theirs)


def test_the_interpolation_names_its_points(followed: dict[str, Any]) -> None:
    assert followed["candidates"] == ["alpha=0", "alpha=0.5", "alpha=0.75", "alpha=1"]


def test_the_place_has_the_version(followed: dict[str, Any]) -> None:
    result, number = followed["published"]
    assert number == 1
    assert result["registry"].endswith("/volumes/models/team")


@pytest.mark.slow
def test_the_kind_trains_is_published_and_answers(tree: Path, tmp_path: Path) -> None:
    tiny_classifier(tmp_path / "model")
    rows = [{"text": str(row["text"]), "calls": 2 * float(row["score"])} for row in tiny_scored_rows(210)]
    write_jsonl(tmp_path / "calls.jsonl", rows)
    whole = {"name": "calls", "model": {"path": "model"}, **yaml.safe_load(fragment(ROOT / "docs/add/kind.md"))}
    whole |= {"publish": {"name": "calls"}, "compute": {"workers": 0, "threads": 1}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(whole))
    done = run("follow_kind.py", tree, tmp_path, str(rows[0]["text"]), str(rows[6]["text"]))
    here, theirs = done["nll"]
    assert here == pytest.approx(theirs)
    before, after = done["errors"]
    assert after < 0.7 * before
    none, six = done["answers"]
    assert none < 2 < six


def test_a_change_goes_where_the_page_says_and_nowhere_else() -> None:
    assert changed("a\nb = [\n  1]\nc\n", " a\n+new\n b = [\n+  0,\n-c\n+d\n+e") == "a\nnew\nb = [\n  0,\n  1]\nd\ne\n"
    with pytest.raises(ValueError, match="no line that begins with 'z'"):
        changed("a\n", " z\n+new")
    with pytest.raises(ValueError, match="no line that begins with 'gone'"):
        changed("a\nnot gone\n", "-gone\n+new")
