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
        self.callbacks, self.over = list[Callable[[Any], object]](), False

    def add_done_callback(self, call: Callable[[Any], object]) -> None:
        self.callbacks.append(call)
        if self.over:
            call(self)

    def end(self) -> None:
        self.over = True
        for call in self.callbacks:
            call(self)

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
                    future.end()
            return self.is_set()

    monkeypatch.setattr(trials, "_trial", Task())
    monkeypatch.setattr(trials, "Event", Waited)
    searched = asked(tiny_recipe, f"{RATE}=1e-5..1e-2 log", trials=3, at_once=at_once)
    work = Workspace(tmp_path)
    assert [trial.number for trial in Trials(searched, work, given(searched.recipe, work)).run()] == [0, 1, 2]
    assert len(waits) > LOOKS
    assert [len(future.callbacks) for future in futures] == [1, 1, 1]


class AtOnce:
    """Ends what it is given where it begins."""

    def with_options(self, task_run_name: str) -> "AtOnce":
        return self

    def submit(self, *_: object) -> Future:
        future = Future()
        future.end()
        return future


def test_values_that_do_not_go_together_are_counted_and_the_others_tried(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of them fits the recipe; an adapter on a line of slerp does not."""
    monkeypatch.setattr(trials, "_trial", AtOnce())
    tuning = "phases.tune.tuning=[{kind: full}, {kind: lora, keep: adapter}]"
    searched = asked(tiny_recipe, tuning, "interpolation=[{kind: wise_ft}, {kind: slerp}]", sampler="grid", trials=4)
    searched.check()
    work = Workspace(tmp_path)
    tried = Trials(searched, work, given(searched.recipe, work)).run()
    assert sorted(trial.outcome.state for trial in tried) == ["done", "done", "done", "refused"]
    (refused,) = (trial for trial in tried if trial.outcome.state == "refused")
    assert (refused.values["phases.tune.tuning"], refused.values["interpolation"]) == (
        {"kind": "lora", "keep": "adapter"},
        {"kind": "slerp"},
    )
    assert "adapters are added up" in refused.outcome.reason
    assert "\n" not in refused.outcome.reason
    again = Trials(searched, work, given(searched.recipe, work)).run()  # and it is over: nobody proposes it again
    assert [trial.outcome.reason for trial in again] == [trial.outcome.reason for trial in tried]
