from pathlib import Path

import pytest

from deployments.machine import programs
from deployments.machine.processes import MARK
from deployments.machine.state import StateFolder
from ftlib.errors import RecipeError

URL = "http://127.0.0.1:4200"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StateFolder:
    """A home whose user's own environment names other servers, databases and secrets."""
    for name, value in {
        "PREFECT_API_URL": "https://elsewhere/api",
        "PREFECT_API_KEY": "secret",
        "PREFECT_PROFILE": "other",
        "PREFECT_API_DATABASE_CONNECTION_URL": "postgresql+asyncpg://u:secret@h/n",
        "REGLAGE_DATABASE": "postgresql://u:secret@h/n",
        "NOTIFY_SOCKET": "/run/secret",
    }.items():
        monkeypatch.setenv(name, value)
    return StateFolder(tmp_path)


def test_no_program_sees_what_is_none_of_its_business(folder: StateFolder):
    database = "postgresql+asyncpg://u:mine@h/n"
    server = programs.server(folder, 4200, database)
    others = [
        programs.worker(folder, URL, "pool", "http://127.0.0.1:6006"),
        programs.setup(folder, URL, "staging", (Path("r.yaml"),)),
        programs.tensorboard(folder, 6006) or server,
    ]
    for program in (server, *others):
        assert "secret" not in str(program.environment.values())
        assert program.environment[MARK] == str(folder.root)
        assert program.environment["PREFECT_HOME"] == str(folder.prefect_home)
        assert program.environment["PYTHONSAFEPATH"] == "1"
    assert "PREFECT_API_URL" not in server.environment
    assert server.environment["PREFECT_API_DATABASE_CONNECTION_URL"] == database
    for program in others[:2]:
        assert program.environment["PREFECT_API_URL"] == f"{URL}/api"
        assert "mine" not in str(program.environment.values())
    beats = {program.environment[programs.HEARTBEAT] for program in (server, *others)}
    assert beats == {"60"}  # server, worker and automations agree


def test_the_environment_and_the_recipes_reach_the_setup(folder: StateFolder):
    setup = programs.setup(folder, URL, "staging", (Path("/a.yaml"), Path("/b.yaml")))
    assert setup.command[-2:] == ("/a.yaml", "/b.yaml")
    assert setup.environment["REGLAGE_ENVIRONMENT"] == "staging"
    assert setup.environment["REGLAGE_HOME"] == setup.folder == str(folder.home)


@pytest.mark.parametrize("told", ["29", "0", "-60", "soon", "60.5", ""])
def test_a_heartbeat_that_prefect_refuses_is_refused_before_anything_starts(told: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(programs.HEARTBEAT, told)
    with pytest.raises(RecipeError, match=r"allowed are whole seconds from 30 on"):
        programs.heartbeat()


def test_what_runs_otherwise_is_told_by_its_digest(folder: StateFolder, monkeypatch: pytest.MonkeyPatch):
    one = programs.server(folder, 4200, None)
    monkeypatch.setenv("TERM", "another")  # nothing that matters
    assert programs.server(folder, 4200, None).digest() == one.digest()
    assert programs.server(folder, 4201, None).digest() != one.digest()
    assert programs.server(folder, 4200, "postgresql+asyncpg://h/n").digest() != one.digest()
    monkeypatch.setenv(programs.HEARTBEAT, "30")
    assert programs.server(folder, 4200, None).digest() != one.digest()
