"""`~` is home in every path that a user gives: in a recipe, on the command line and in variables."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from deployments.machine.checks import examine
from flows.command_line.console import UserPath
from flows.command_line.main import main
from ftlib.config import user_path
from ftlib.data.sources.files import Files
from ftlib.data.sources.huggingface import HuggingFace
from ftlib.errors import DataError, ModelError, RecipeError
from ftlib.models.folder import find_model
from ftlib.models.reference import ModelRef
from ftlib.recipe.file import load_recipe
from ftlib.registry.places.folder import Folder
from ftlib.registry.signing import PublicKey, Signer
from ftlib.storage import Place, open_store
from ftlib.testing import write_jsonl
from ftlib.workspace import Workspace


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "home").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "home"


def test_every_path_of_a_recipe_and_a_flow(home: Path) -> None:
    write_jsonl(home / "rows" / "train.jsonl", [{"text": "a"}])
    uri = str(home / "rows" / "train.jsonl")
    assert Workspace("~/work").root == home / "work"
    for path in ("~/rows", "~/rows/*.jsonl", "~/rows/train.jsonl"):
        assert [file.uri for file in Files(path=path).list()] == [uri]
    assert [file.uri for file in HuggingFace(path="~/rows").list()] == [uri]
    assert Folder(path="~/registry").store().uri == open_store(Place.parse("~/registry")).uri == str(home / "registry")
    (home / "model").mkdir()
    with pytest.raises(ModelError, match=f"{home}/model"):
        find_model(ModelRef(path="~/model"))
    (home / "r.yaml").write_text("[]")
    with pytest.raises(RecipeError, match="holds a list"):
        load_recipe("~/r.yaml")
    (home / "key.pem").write_text("no key")
    for key in (Signer, PublicKey):
        with pytest.raises(RecipeError, match=r"no p\w+ key in a PEM file") as caught:
            key(Path("~/key.pem"))
        assert "No such file" not in str(caught.value)


def test_every_path_on_the_command_line_is_a_users(home: Path) -> None:
    assert UserPath().convert("~/x", None, None) == home / "x"
    asked, commands = list[click.Parameter](), list[click.Command]([main])
    context = click.Context(main)
    while commands:
        command = commands.pop()
        asked += command.params
        if isinstance(command, click.Group):
            commands += [
                found for name in command.list_commands(context) if (found := command.get_command(context, name))
            ]
    paths = [param for param in asked if isinstance(param.type, click.Path)]
    assert len(paths) >= 10
    assert [param.name for param in paths if not isinstance(param.type, UserPath)] == []


@pytest.mark.parametrize("given", [["--work=~/w", "--registry=~/r"], []])
def test_a_tilde_is_the_home_folder_in_options_and_variables(
    home: Path, monkeypatch: pytest.MonkeyPatch, given: list[str]
) -> None:
    monkeypatch.setenv("REGLAGE_WORK", "~/w")
    monkeypatch.setenv("REGLAGE_REGISTRY", "~/r")
    found = CliRunner().invoke(main, ["doctor", *given])
    assert f"{home}/w can be written" in found.output
    assert f"{home}/r can be written" in found.output
    assert list(Path.cwd().iterdir()) == []


def test_a_home_that_is_not_there(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert user_path("~no-such-user/rows") == Path("~no-such-user/rows")
    assert user_path("./~/rows") == Path("~/rows")
    with pytest.raises(DataError, match="no such file or folder"):
        Files(path="~no-such-user/rows").list()
    assert [finding.what for finding in examine("w", "~no-such-user/r")]
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", lambda _: (_ for _ in ()).throw(KeyError()))
    with pytest.raises(RecipeError, match="no home folder is known here"):
        Workspace("~/work")
