"""The how-tos in docs/add are true: what they say to write and change is done to a copy of the tree, which then runs."""

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

from ftlib.testing import tiny_classifier, tiny_rows
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


def recipe(folder: Path) -> Path:
    """Write a recipe that holds what every page says that a recipe may hold."""
    told = {page: yaml.safe_load(fragment(ROOT / f"docs/add/{page}.md")) for page in PAGES}
    whole = yaml.safe_load(RECIPE)
    whole["datasets"]["tickets"] |= told["source"] | told["format"]
    for page in ("objective", "tuning", "penalty", "optimiser"):
        whole["phases"][1] |= told[page]
    whole["evaluations"]["tickets"] |= told["metric"]
    whole |= told["interpolation"] | told["place"]
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(whole))
    return path


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tree")
    for package in ("ftlib", "flows"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    for page in PAGES:
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
    done = subprocess.run(
        [sys.executable, ROOT / "tests/docs/follow_pages.py", recipe(folder), folder / "work"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(tree), "HOME": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_the_source_reads_every_row(followed: dict[str, Any]) -> None:
    assert followed["rows"][0] == 121


def test_the_format_lays_out_title_and_text(followed: dict[str, Any]) -> None:
    assert all(text.startswith("case ") and ". " in text.replace(" .", ".") for text in followed["read"]), followed[
        "read"
    ]


def test_the_objective_is_the_focal_loss(followed: dict[str, Any]) -> None:
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
    assert followed["away"] < 1e-6


def test_the_metric_is_scikit_learn_s(followed: dict[str, Any]) -> None:
    here, theirs = followed["metric"]
    assert here == pytest.approx(theirs)


def test_the_interpolation_names_its_points(followed: dict[str, Any]) -> None:
    assert followed["candidates"] == ["alpha=0", "alpha=0.5", "alpha=0.75", "alpha=1"]


def test_the_place_has_the_version(followed: dict[str, Any]) -> None:
    result, number = followed["published"]
    assert number == 1
    assert result["registry"].endswith("/volumes/models/team")


def test_a_change_goes_where_the_page_says_and_nowhere_else() -> None:
    assert changed("a\nb = [\n  1]\nc\n", " a\n+new\n b = [\n+  0,\n-c\n+d\n+e") == "a\nnew\nb = [\n  0,\n  1]\nd\ne\n"
    with pytest.raises(ValueError, match="no line that begins with 'z'"):
        changed("a\n", " z\n+new")
    with pytest.raises(ValueError, match="no line that begins with 'gone'"):
        changed("a\nnot gone\n", "-gone\n+new")
