"""What a systemd unit takes along from the shell that wrote it."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from deployments.machine.processes import MARK
from deployments.machine.state import State, StateFolder
from flows.command_line.up import up
from ftlib.errors import RecipeError

ENVIRONMENT = """\
name: staging
registry: ${REGISTRY_OF_STAGING}
home: ${REGLAGE_HOME}
secrets: {variables: [SLACK_WEBHOOK]}
"""


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("REGLAGE_ENVIRONMENT", "REGLAGE_HOME", "REGLAGE_DATABASE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "staging.yaml").write_text(ENVIRONMENT)
    return monkeypatch


def written(home: Path, *words: str) -> dict[str, Any]:
    file = home / "units" / "reglage.service"
    done = CliRunner().invoke(
        up, ["--systemd", str(file), "--home", str(home), "--json", *words], catch_exceptions=False
    )
    assert file.stat().st_mode & 0o077 == 0
    assert file.read_text() == json.loads(done.stdout)["unit"]
    return json.loads(done.stdout)


def variables(unit: str) -> dict[str, str]:
    lines = [line.removeprefix("Environment=") for line in unit.splitlines() if line.startswith("Environment=")]
    pairs = [shlex.split(line)[0].replace("%%", "%").partition("=") for line in lines]
    return {name: value for name, _, value in pairs}


def test_a_server_with_a_password_keeps_it_as_a_service(tmp_path: Path, shell: pytest.MonkeyPatch):
    kept = {
        "PREFECT_SERVER_API_AUTH_STRING": "admin:50% of it",
        "PREFECT_SERVER_UI_API_URL": "https://prefect.example/api",
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
        "REGLAGE_NOTIFY_ADDRESS": "https://prefect.example",
    }
    lost = {
        MARK: "another home's",
        "PREFECT_API_URL": "https://elsewhere/api",
        "PREFECT__FLOW_RUN_ID": "1",
        "PREFECT_HOME": "/elsewhere",
        "NOTIFY_SOCKET": "/run/x",
        "AWS_SECRET_ACCESS_KEY": "secret",
    }
    for name, value in (kept | lost).items():
        shell.setenv(name, value)
    said = written(tmp_path)
    found = variables(said["unit"])
    assert {name: found.get(name) for name in kept} == kept
    assert not {*lost} & {*found}
    assert said["secrets"] == ["AWS_SECRET_ACCESS_KEY"]
    assert f"\nEnvironmentFile=-{StateFolder(tmp_path).secrets}\n" in said["unit"]


@pytest.mark.parametrize("remembered", [False, True])
def test_what_an_environment_reads_is_there_and_its_secrets_are_named(
    tmp_path: Path, shell: pytest.MonkeyPatch, remembered: bool
):
    file, words = str(tmp_path / "staging.yaml"), list[str]()
    if remembered:
        folder = StateFolder(tmp_path)
        folder.make()
        folder.write(State(environment=file))
    else:
        words = ["--env", file]
    with pytest.raises(RecipeError, match="REGISTRY_OF_STAGING is not set"):
        written(tmp_path, *words)
    shell.setenv("REGISTRY_OF_STAGING", "s3://models/staging")
    shell.setenv("SLACK_WEBHOOK", "https://hooks.example/secret")
    said = written(tmp_path, *words)
    assert variables(said["unit"])["REGISTRY_OF_STAGING"] == "s3://models/staging"
    assert said["secrets"][0] == "SLACK_WEBHOOK"
    assert "hooks.example" not in said["unit"]
