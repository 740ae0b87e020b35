"""`reglage init`: what it writes, and that it never writes over anything."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from click.testing import CliRunner

from flows.command_line.init import write_new
from flows.command_line.main import main
from ftlib.errors import DataError, RecipeError, StorageError
from ftlib.recipe.examples import examples
from ftlib.recipe.file import load_recipe
from ftlib.testing.models import tiny_classifier
from ftlib.testing.rows import tiny_rows, write_jsonl

ROOT = Path(__file__).parents[3]


def init(*arguments: str) -> str:
    return CliRunner().invoke(main, ["init", *arguments], standalone_mode=False, catch_exceptions=False).output


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "My Tickets.jsonl", tiny_rows(120))
    return tmp_path


def test_a_project_around_a_file(project: Path) -> None:
    said = init("My Tickets.jsonl", "--dir", "made")
    assert load_recipe(project / "made/recipes/my-tickets.yaml").publish.name == "my-tickets"
    assert "next       cd made" in said
    assert said.startswith("looked at 120 rows, all of them fit\n")
    head = (project / "made/recipes/my-tickets.yaml").read_text().splitlines()[0]
    assert head == "# A first recipe, which `reglage init` wrote: looked at 120 rows, all of them fit."
    assert len((project / "made/README.md").read_text().splitlines()) == 5
    assert "/work/" in (project / "made/.gitignore").read_text()
    before = {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}
    with pytest.raises(StorageError, match="is there already, and stays as it is"):
        init("My Tickets.jsonl", "--dir", "made")
    assert {path: path.read_bytes() for path in project.rglob("*") if path.is_file()} == before
    init("My Tickets.jsonl", "--dir", "made", "--name", "second", "--model", "models/of: mine")
    assert load_recipe(project / "made/recipes/second.yaml").model.path == "models/of: mine"
    assert before.items() <= {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}.items()


def test_of_several_at_once_one_writes(project: Path) -> None:
    def write(content: str) -> bool:
        try:
            return write_new(project / "recipes/mine.yaml", content * 1000) == project / "recipes/mine.yaml"
        except StorageError:
            return False

    with ThreadPoolExecutor(4) as pool:
        wrote = dict(zip("abcd", pool.map(write, "abcd"), strict=True))
    (winner,) = [content for content, won in wrote.items() if won]
    assert (project / "recipes/mine.yaml").read_text() == winner * 1000


def test_examples_are_written_as_they_are(project: Path) -> None:
    said = init("--example", "images")
    assert (project / "recipes/images.yaml").read_bytes() == examples()["images"].read_bytes()
    assert "python -m recipes.icons rows/icons" in said
    with pytest.raises(RecipeError, match=r"no recipe 'quick' comes with Réglage; there are: .*quickstart"):
        init("--example", "quick")
    with pytest.raises(RecipeError, match="`reglage init --example quickstart` writes the one"):
        load_recipe("recipes/quickstart.yaml")
    with pytest.raises(RecipeError, match=r"a YAML file$"):
        load_recipe("recipes/mine.yaml")


def test_what_it_is_not_given(project: Path) -> None:
    runner = CliRunner()
    for arguments in ([], ["My Tickets.jsonl", "--example", "lora"], ["--example", "lora", "--name", "x"]):
        assert runner.invoke(main, ["init", *arguments], standalone_mode=False).exception is not None
    with pytest.raises(RecipeError, match="give --name"):
        init("My Tickets.jsonl", "--name", "No Name")
    with pytest.raises(DataError):
        init("nothing.jsonl", "--dir", "made")
    assert not (project / "made").exists()


def test_as_json(project: Path) -> None:
    found = json.loads(init("My Tickets.jsonl", "--name", "mine", "--json"))
    assert found["written"][0] == "recipes/mine.yaml"
    assert (found["kind"], found["format"]["label"]) == ("labeled", "label")


@pytest.mark.slow
@pytest.mark.prefect
def test_its_recipe_runs_as_it_is(project: Path) -> None:
    tiny_classifier(project / "models/tiny")
    init("My Tickets.jsonl", "--name", "mine", "--model", "models/tiny")
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "XDG_CACHE_HOME": str(project / "cache")}
    for command in (["check"], ["run", "--set", "compute.workers=0"]):
        words = [sys.executable, "-P", "-m", "ftlib", command[0], "recipes/mine.yaml", *command[1:]]
        done = subprocess.run(words, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stdout + done.stderr
    assert (project / "registry/models/mine/versions/00000001.json").is_file()
