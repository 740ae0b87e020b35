"""The page of a work place's runs in Prefect: what is there before any run of a deployment has ended."""

from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

from flows.pages.runs_shown import show_runs_at_first
from ftlib.tracking.run_facts import RunFacts
from ftlib.tracking.run_index import keep
from ftlib.workspace import Workspace


class Client:
    """Prefect's client, as far as it keeps artifacts of one key."""

    def __init__(self) -> None:
        self.kept: list[Any] = []

    def read_artifacts(self, **asked: Any) -> list[Any]:
        return self.kept[-1:]

    def create_artifact(self, artifact: Any) -> None:
        self.kept.append(SimpleNamespace(key=artifact.key, data=artifact.data, flow_run_id=None))


def test_the_page_says_how_a_first_run_comes_and_then_what_ran(tmp_path: Path) -> None:
    client, work = Client(), Workspace(tmp_path / "work")
    for _ in range(2):
        show_runs_at_first(client, work)  # type: ignore[arg-type]
    (empty,) = client.kept
    assert empty.key == "runs"
    assert "No run has ended here yet" in empty.data
    assert f"--work {work}`" in empty.data

    keep(work, RunFacts(recipe="tickets", number=1, state="published", when=datetime.now(UTC)))
    for _ in range(2):
        show_runs_at_first(client, work)  # type: ignore[arg-type]
    _, filled = client.kept
    assert "| tickets#1 | published |" in filled.data.replace("\\", "")

    filled.flow_run_id = uuid4()  # what a deployed run wrote is newer than anything here
    keep(work, RunFacts(recipe="tickets", number=2, state="failed", when=datetime.now(UTC)))
    show_runs_at_first(client, work)  # type: ignore[arg-type]
    assert len(client.kept) == 2
