"""`reglage evaluate` on folders: numbers against plain transformers, tables that are made once."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from transformers import AutoModelForSequenceClassification

from flows.command_line.main import main
from ftlib.kinds.outcomes_file import read_outcomes
from ftlib.registry import ModelRegistry
from ftlib.registry.versions import Manifest, file_of
from ftlib.storage import LocalStore
from ftlib.testing import LABELS, tiny_checkpoint, tiny_recipe, tiny_rows, tiny_tokenizer


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe, and two models that it did not train."""
    folder = tmp_path_factory.mktemp("evaluate")
    tiny_recipe(folder)
    start = tiny_checkpoint(folder / "one")
    tiny_checkpoint(folder / "two", start=start, seed=1)
    return folder


def call(place: Path, *words: object) -> Result:
    fixed = ["--recipe", place / "tiny.yaml", "--work", place / "work"]
    return CliRunner().invoke(main, ["evaluate", *map(str, [*words, *fixed])])


def test_two_models_on_a_recipe_s_evaluations(place: Path) -> None:
    one, two = place / "one" / "model", place / "two"
    result = call(place, one, two, "--json")
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert [(cell["candidate"], cell["evaluation"]) for cell in said["measured"]] == [
        (str(model), name) for model in (one, two) for name in ("home", "away")
    ]
    tables = [read_outcomes(place / "work" / cell["outcomes"]) for cell in said["measured"] if cell["split"] == "test"]
    model = AutoModelForSequenceClassification.from_pretrained(place / "two" / "model")
    with torch.no_grad():
        logits = [
            model(**tiny_tokenizer()(row["text"], return_tensors="pt")).logits[0].numpy()
            for row in tiny_rows(60, seed=1)
        ]
    answers = {LABELS.index(str(row["label"])): 0 for row in tiny_rows(3)}
    assert sorted(answers) == [0, 1, 2]
    # The away rows are the second half of these by hash: every answer of the table is one that transformers gives.
    plain = {tuple(np.round(np.exp(x) / np.exp(x).sum(), 4)) for x in logits}
    assert {tuple(np.round(p, 4)) for p in tables[3].probabilities} <= plain
    accuracy = said["measured"][3]["metrics"]["accuracy"]["value"]
    assert accuracy == pytest.approx((tables[3].gold == tables[3].predicted).mean())
    differences = {(d["evaluation"], d["metric"]): d for d in said["differences"]}
    assert len(differences) == 4
    gap = accuracy - said["measured"][1]["metrics"]["accuracy"]["value"]
    assert differences["away", "accuracy"]["estimate"]["value"] == pytest.approx(gap)


def test_a_narrow_terminal_shows_whole_names(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    result = call(place, place / "one", "--evaluation", "away")
    assert result.exit_code == 0, result.output
    assert str(place / "one") in result.stdout.splitlines()
    assert "…" not in result.stdout


def test_a_model_of_an_installed_package(place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = tmp_path / "some_models"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "one").symlink_to(place / "one" / "model")
    monkeypatch.syspath_prepend(tmp_path)
    result = call(place, "package:some_models/one", "--evaluation", "away", "--json")
    assert result.exit_code == 0, result.output
    assert [cell["candidate"] for cell in json.loads(result.stdout)["measured"]] == ["package:some_models/one"]


def test_what_was_measured_is_not_measured_again(place: Path) -> None:
    call(place, place / "one")
    before = {path: path.stat().st_mtime_ns for path in (place / "work" / "outcomes").glob("*.parquet")}
    result = call(place, place / "one" / "model", "--evaluation", "away")
    assert result.exit_code == 0, result.output
    assert "away (shifted" in result.output
    assert "home" not in result.output
    assert {path: path.stat().st_mtime_ns for path in (place / "work" / "outcomes").glob("*.parquet")} == before


def test_a_published_version_is_the_folder_it_was_made_from(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    registry, folder = ModelRegistry(LocalStore(tmp_path / "registry")), place / "two" / "model"
    files = tuple(file_of(folder, path.name) for path in sorted(folder.iterdir()))
    manifest = Manifest(name="demo", description="", files=files, metrics={}, lineage={})
    registry.publish(manifest, folder, "k", lambda _: None, tmp_path)
    registry.promote("demo", "champion", 1, None, "a test", "measured below")
    result = call(place, folder, "demo@champion", "--registry", tmp_path / "registry", "--json")
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    values = {(cell["candidate"], cell["evaluation"]): cell["metrics"] for cell in said["measured"]}
    assert {name for name, _ in values} == {str(folder), "demo@champion"}
    assert all(values["demo@champion", name] == values[str(folder), name] for name in ("home", "away"))
    assert {d["estimate"]["value"] for d in said["differences"]} == {0.0}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "'nowhere' is no folder here"),
        (["ONE", "--evaluation", "nothing"], "evaluation nothing: tiny has home, away"),
        (["package:nowhere_at_all/model"], "there is no installed package 'nowhere_at_all'"),
        (["ONE", "ONE"], "is named twice"),
        (["BARE"], "has no head for 'labeled' rows to measure"),
    ],
)
def test_what_cannot_be_measured_is_one_line(place: Path, words: list[str], message: str) -> None:
    result = call(place, *({"ONE": place / "one", "BARE": place / "model"}.get(word, word) for word in words))
    assert result.exit_code != 0
    assert message in result.output
    assert "Traceback" not in result.output
