"""Where `reglage deploy` deploys to: the environment that `reglage up` runs here, unless another is named."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from deployments import recipe_deployment
from deployments.changes import Change
from deployments.environment import Environment
from deployments.machine.processes import process
from deployments.machine.state import State, StateFolder
from deployments.recipe_deployment import Deployed, Wishes
from flows.command_line.main import main

ROOT = Path(__file__).parents[3]
URL = "http://127.0.0.1:4299/api"


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Wishes, Environment]]:
    """What is asked of a server, in a home in which `reglage up --env gpu.yaml` runs."""
    said: list[tuple[str, Wishes, Environment]] = []

    def deploy_recipe(path: str, wishes: Wishes, environment: Environment) -> tuple[Deployed, list[Change], bool]:
        said.append((path, wishes, environment))
        made = Deployed(
            deployment="retrain/a", model="a", recipe=path, schedules=(), event=False, approval="", work="work",
            paused=False, pool="gpu", owner="",
        )  # fmt: skip
        return made, [Change(what="created", kind="deployment", name="retrain/a")], True

    monkeypatch.setattr(recipe_deployment, "deploy_recipe", deploy_recipe)
    for name in ("REGLAGE_ENVIRONMENT", "PREFECT_API_URL", "REGLAGE_HOME", "PREFECT_API_AUTH_STRING"):
        monkeypatch.setenv(name, "")  # restored after the command has set it
        monkeypatch.delenv(name)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "no profile"))
    home = tmp_path / "home"
    home.mkdir()
    (home / "tickets.yaml").write_text((ROOT / "recipes" / "fresh_data.yaml").read_text())
    monkeypatch.chdir(home)
    file = tmp_path / "gpu.yaml"
    file.write_text("name: gpu\npool: {name: gpu}\nregistry: s3://bucket/models\nhome: ${REGLAGE_HOME}\n")
    folder = StateFolder(home)
    folder.make()
    folder.write(State(phase="up", supervisor=process(os.getpid()), port=4299, environment=str(file), pool="gpu"))
    return said


def deploy(*words: str) -> None:
    assert main(["deploy", "tickets.yaml", *words, "--json"], standalone_mode=False) == 0


def test_it_is_what_up_runs_here(asked: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    deploy()
    (_, wishes, environment), = asked  # fmt: skip
    assert (environment.name, environment.pool.name, environment.registry) == ("gpu", "gpu", "s3://bucket/models")
    assert environment.home == str(Path.cwd().resolve())
    assert not wishes.moves
    assert os.environ["PREFECT_API_URL"] == URL
    assert json.loads(capsys.readouterr().out)["worker"]


def test_how_to_start_it_by_hand_can_be_pasted(asked: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    """Prefect's own commands do not know the server that runs for a folder."""
    assert main(["deploy", "tickets.yaml"], standalone_mode=False) == 0
    assert f"PREFECT_API_URL={URL} prefect deployment run retrain/" in capsys.readouterr().out


def test_it_is_so_by_its_address_too_and_not_for_another_server(
    asked: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for url, name in ((URL, "gpu"), ("http://127.0.0.1:4298/api", "dev")):
        monkeypatch.setenv("PREFECT_API_URL", url)
        deploy()
        assert asked[-1][-1].name == name


def test_an_environment_that_is_named_is_taken(asked: list[Any], tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("name: mine\nhome: /srv\n")
    deploy("--env", "../mine.yaml")
    _, wishes, environment = asked[0]
    assert (environment.name, wishes.moves) == ("mine", True)
