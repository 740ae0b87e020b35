"""The index of runs: how a run is said to have ended."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from prefect.exceptions import TerminationSignal

from flows import run_entry
from flows.run_entry import entered
from ftlib.errors import DataError, Interrupted
from ftlib.recipe.file import load_recipe
from ftlib.testing import tiny_recipe
from ftlib.tracking.run_facts import RunFacts
from ftlib.tracking.run_index import runs_of
from ftlib.workspace import Workspace
from tasks.runner import Runner


@pytest.mark.parametrize(
    ("error", "state", "reason"),
    [
        (DataError("no rows"), "failed", "no rows"),
        (Interrupted("stopped behind step 3"), "stopped", "stopped behind step 3"),
        (KeyboardInterrupt(), "stopped", "on request"),
        (TerminationSignal(signal.SIGTERM), "stopped", "on request"),  # Prefect's cancel, where no training hears it
    ],
    ids=["failed", "interrupted", "ctrl-c", "cancelled"],
)
def test_how_a_run_ended_is_told_from_what_ended_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, state: str, reason: str
) -> None:
    recipe, work, shown = load_recipe(tiny_recipe(tmp_path)), Workspace(tmp_path / "work"), list[str]()
    monkeypatch.setattr(run_entry, "show_runs", lambda _: shown.append("page"))
    with pytest.raises(type(error)), entered(recipe, Runner(work, recipe.compute)):
        raise error
    (found,) = (facts for facts in runs_of(work, recipe.name) if isinstance(facts, RunFacts))
    assert (found.state, found.reason) == (state, reason)
    assert shown == ([] if state == "stopped" else ["page"])  # who stops a run does not wait for pages
