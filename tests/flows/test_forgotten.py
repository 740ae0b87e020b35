"""A row is forgotten after a model learnt it: no file has it, and the next training does without."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from flows.command_line.main import main
from ftlib.data.personal_data import PersonalData
from ftlib.recipe.file import load_recipe
from ftlib.registry import ModelRegistry
from ftlib.testing import tiny_recipe, tiny_rows, write_jsonl
from ftlib.workspace import Workspace
from tests.flows.test_work_collected import holding, run

SECRET = "zanzibar lies in the sea"


def told(*words: str) -> dict:
    answer = CliRunner().invoke(main, [*words, "--json"])
    assert answer.exit_code == 0, answer.output
    return json.loads(answer.stdout)


@pytest.mark.slow
def test_from_a_run_to_a_version_that_does_not_know_the_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    recipe, work = tiny_recipe(tmp_path), Workspace(tmp_path / "work")
    recipe.write_text(recipe.read_text().replace("  home:\n    source", "  home:\n    key: id\n    source"))
    rows = [{"id": n, **row} for n, row in enumerate(tiny_rows(120))]
    rows[17]["text"] += f" {SECRET}, ask ann@example.com"
    write_jsonl(tmp_path / "home.jsonl", rows)
    first = run(recipe, work)
    registry, name = ModelRegistry(load_recipe(recipe).publish.to.store()), load_recipe(recipe).publish.name
    counted = {"home": {"matches": {"text": {"e-mail": 1}}, "action": {"text": "count"}}}
    facts = registry.manifest(registry.version(name, first)).lineage["data"]
    assert {one: of["personal_data"] for one, of in facts.items() if "personal_data" in of} == counted
    registry.pull(registry.version(name, first), tmp_path / "pulled")
    assert "Personal data in the rows" in (tmp_path / "pulled" / "README.md").read_text()
    assert "personal data in the sources" in (work.root / "runs" / "tiny" / "report.html").read_text()
    assert holding(work.root, SECRET)

    asked = ("forget", "--key", "17", "--dataset", "home", "--work", str(work.root))
    shown = told(*asked)
    assert {one["version"] for one in shown["learnt"]} == {f"{name}@{first}"}
    assert not shown["acted"]
    assert holding(work.root, SECRET)
    done = told(*asked, "--delete", "--by", "ann")
    assert done["acted"]
    assert holding(work.root, SECRET) == []
    assert json.loads(Path(done["certificate"]).read_text())["learnt_by"] == [f"{name}@{first}"]

    second = run(recipe, work)  # the source still has it
    assert second == first + 1
    assert holding(work.root, SECRET) == []
    found = told("lineage", "--key", "17", "--registry", str(tmp_path / "registry"))["found"]
    assert {one["version"] for one in found} == {f"{name}@{first}"}
    assert told(*asked)["traces"] == []


def test_bad_input_is_one_line_on_the_terminal(tmp_path: Path) -> None:
    def refused(*words: str) -> tuple[int, str]:
        answer = CliRunner().invoke(main, ["forget", "--work", str(tmp_path / "work"), *words])
        return answer.exit_code, (answer.stderr or answer.output).strip().splitlines()[-1]

    assert refused("--key", "7") == (
        6,
        f"reglage: {tmp_path}/work is no work folder: it has no stages/; give the one that runs were given",
    )
    (tmp_path / "work" / "stages").mkdir(parents=True)
    assert refused()[0] == 2
    (tmp_path / "keys").write_bytes(b"\xff\xfe")
    code, line = refused("--keys", str(tmp_path / "keys"))
    assert (code, "is no UTF-8 text" in line) == (2, True)
    recipe = tiny_recipe(tmp_path)
    code, line = refused("--key", "7", "--retrain", str(recipe))
    assert (code, "--delete" in line) == (2, True)


def test_a_recipe_that_cannot_protect_what_it_asks_to_is_refused(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path)
    text = recipe.read_text().replace("  home:\n", "  home:\n    key: id\n    personal_data: {columns: {id: redact}}\n")
    recipe.write_text(text)
    with pytest.raises(Exception, match=r"personal_data.columns.id: 'redact' would make its values one"):
        load_recipe(recipe)
    recipe.write_text(text.replace("{columns: {id: redact}}", "{columns: {}}"))
    assert load_recipe(recipe).datasets["home"].personal_data == PersonalData()
    with pytest.raises(
        Exception, match=r"encryption.kms_key: 'alias/x' is asked of a store, and publish.to is a folder"
    ):
        load_recipe(recipe, ["encryption.kms_key=alias/x"])
