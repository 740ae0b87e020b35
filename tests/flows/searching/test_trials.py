"""How a search waits for its trials: without a Prefect, a process or a clock."""

from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from flows.searching import trials
from flows.searching.trials import Trials
from ftlib.evaluation.measured import Estimate
from ftlib.search.trial import Outcome
from ftlib.workspace import Workspace
from tests.flows.run.test_steps import given
from tests.flows.searching.test_recipes import RATE, asked

LOOKS = 40
"""So often a search looks before a trial is over."""


class Future:
    """Keeps what it is given for its end, as Prefect's does."""

    def __init__(self) -> None:
        self.callbacks = list[Callable[[Any], object]]()

    def add_done_callback(self, call: Callable[[Any], object]) -> None:
        self.callbacks.append(call)

    def result(self) -> Outcome:
        return Outcome(state="done", value=Estimate(value=0.5, low=0.4, high=0.6), candidate="end")


@pytest.mark.parametrize("at_once", [1, 2])
def test_a_search_keeps_no_more_the_longer_it_waits(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    futures, waits = list[Future](), list[float | None]()

    class Task:
        def with_options(self, task_run_name: str) -> "Task":
            return self

        def submit(self, *_: object) -> Future:
            futures.append(Future())
            return futures[-1]

    class Waited(Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout)
            if len(waits) % LOOKS == 0:
                for future in futures:
                    for call in future.callbacks:
                        call(future)
            return self.is_set()

    monkeypatch.setattr(trials, "_trial", Task())
    monkeypatch.setattr(trials, "Event", Waited)
    searched = asked(tiny_recipe, f"{RATE}=1e-5..1e-2 log", trials=3, at_once=at_once)
    work = Workspace(tmp_path)
    assert [trial.number for trial in Trials(searched, work, given(searched.recipe, work)).run()] == [0, 1, 2]
    assert len(waits) > LOOKS
    assert [len(future.callbacks) for future in futures] == [1, 1, 1]
