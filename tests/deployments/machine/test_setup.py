"""What the setup of `reglage up` leaves to the environment, and what every environment must say then."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from deployments import apply as apply_module
from deployments.deployment import job_variables
from deployments.environment import Environment, WorkPool, read_environment
from deployments.machine import setup
from deployments.machine.setup import ATTEMPTS, set_up, set_up_patiently
from ftlib.errors import TransientError


def test_it_does_to_the_server_what_apply_does_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("REGLAGE_HOME", str(tmp_path))
    monkeypatch.delenv("REGLAGE_ENVIRONMENT", raising=False)
    asked: list[str] = []

    def no_server(*_: Any, **__: Any) -> None:
        asked.append("a client")
        raise AssertionError("nobody else may talk to the server")

    monkeypatch.setattr("prefect.get_client", no_server)
    monkeypatch.setattr(apply_module, "apply", lambda environment: [])
    assert set_up(()) == {"pool": "reglage", "changes": []}
    assert asked == []


@pytest.mark.parametrize("busy", [1, ATTEMPTS - 1, ATTEMPTS])
def test_a_server_that_is_too_busy_to_answer_is_asked_again(busy: int, monkeypatch: pytest.MonkeyPatch):
    asked: list[tuple[str, ...]] = []

    def busy_at_first(recipes: tuple[str, ...]) -> dict[str, Any]:
        asked.append(recipes)
        if len(asked) <= busy:
            raise TransientError("it does not answer within 10 s")
        return {"pool": "reglage"}

    monkeypatch.setattr(setup, "set_up", busy_at_first)
    monkeypatch.setattr(setup, "PAUSE", 0.0)
    if busy == ATTEMPTS:
        with pytest.raises(TransientError, match="within 10 s"):
            set_up_patiently(("a.yaml",))
    else:
        assert set_up_patiently(("a.yaml",)) == {"pool": "reglage"}
    assert asked == [("a.yaml",)] * min(busy + 1, ATTEMPTS)


def test_runs_write_into_no_pipe_to_their_worker_unless_the_pool_says_so():
    assert job_variables(Environment())["stream_output"] is False
    asked = WorkPool(job_variables={"stream_output": True})
    assert job_variables(Environment(pool=asked))["stream_output"] is True


def test_dev_is_the_way_back_from_a_remembered_environment(tmp_path: Path):
    assert read_environment("dev", {"REGLAGE_HOME": str(tmp_path)}) == Environment(home=str(tmp_path))
