"""Runs a search's trials: proposes, hands to processes, keeps what came of each; some at once, in a fixed order.

A trial is proposed as soon as all that it may know are over: all before it but the `at_once - 1` that go on beside it.
So what is proposed depends on no clock, and a search that was killed proposes again what it had.
"""

from queue import SimpleQueue
from threading import Event
from types import TracebackType
from typing import Any, NamedTuple

from prefect import Task
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture
from prefect.logging import get_run_logger
from prefect.utilities.annotations import quote

from flows.run.values import Inputs
from flows.searching.process import Order
from flows.searching.processes import TrialProcess
from flows.searching.recipes import Searched, study_of
from ftlib.errors import RecipeError, TrainingError
from ftlib.progress import note
from ftlib.search.halving import rungs
from ftlib.search.proposals import propose, told_before, trials_of
from ftlib.search.space import Point, written
from ftlib.search.study import Study
from ftlib.search.trial import Outcome, Trial
from ftlib.wording import some
from ftlib.workspace import Workspace
from tasks.runner import SAVING_SECONDS

_LOOK_SECONDS = 0.2


class _Going(NamedTuple):
    """A trial that is handed to a process."""

    future: PrefectFuture[Any]
    over: Event


class Trials:
    """The trials of one search: a context, in which their processes start while their rows are prepared."""

    def __init__(self, asked: Searched, work: Workspace, given: Inputs) -> None:
        """Open the study, with the trials that are over."""
        self.asked, self.work, self.given = asked, work, given
        self.name = asked.recipe.name
        self.study = Study(work, self.name, study_of(asked, given), asked.search)
        self.count = trials_of(asked.search)
        self._points: dict[int, dict[str, Point]] = {}
        self._going: dict[int, _Going] = {}
        self._slots: SimpleQueue[TrialProcess] = SimpleQueue()
        log = work.root / "runs" / self.name / "search.log"
        self._processes = [TrialProcess(log) for _ in range(asked.search.at_once)]
        for process in self._processes:
            self._slots.put(process)

    def __enter__(self) -> "Trials":
        left = sum(number not in self.study.trials for number in range(self.count))
        for process in self._processes[:left]:
            process.begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            process.close()

    def run(self) -> list[Trial]:
        """Run what is not over yet; return all trials in order. Raises TrainingError where none was measured."""
        if before := sum(number < self.count for number in self.study.trials):
            others = "; it goes on with the others" if before < self.count else ""
            note("search", f"{before} of {self.count} trials are over{others}")
        try:
            for number in range(self.count):
                self._await(told_before(number, self.asked.search))
                if number not in self.study.trials:
                    self._begin(number)
            self._await(self.count)
        except BaseException:
            for process in self._processes:
                process.stop()
            for going in self._going.values():
                going.over.wait(SAVING_SECONDS)
            raise
        tried = self.study.first(self.count)
        if all(trial.outcome.state != "done" for trial in tried):
            reasons = dict.fromkeys(f"trial {trial.number} {told(trial)}" for trial in tried)
            raise TrainingError(f"none of {self.count} trials was measured: {some([*reasons], 3, '; ')}")
        return tried

    def _begin(self, number: int) -> None:
        """Propose a trial and hand it to a process; one whose values the recipe refuses is over at once."""
        known = self.study.first(told_before(number, self.asked.search))
        points = propose(
            self.asked.search,
            number,
            known,
            [self._points_of(other) for other in range(len(known), number)],
            self.asked.own,
            maximize=self.asked.maximize,
        )
        self._points[number] = points
        values = {path: self.asked.search.space[path].value(point) for path, point in points.items()}
        try:
            recipe = self.asked.of(values)
        except RecipeError as error:
            self._over(number, Outcome(state="refused", reason=" ".join(str(error).split())))
            return
        halving = self.asked.search.halving
        order = Order(
            recipe=recipe.model_dump(mode="json"),
            work=str(self.work),
            files={name: tuple(files) for name, files in self.given.files.items()},
            metric=self.asked.metric,
            rungs=rungs(halving, known),
            factor=halving.factor if halving else 2,
        )
        name = f"trial {number}"
        said = " ".join(f"{path.rpartition('.')[2]}={written(value)}" for path, value in values.items())
        note("search", f"{name} of {self.count} begins: {said}")
        task = _trial.with_options(task_run_name=task_name(f"{name} · {said}"))
        going = _Going(task.submit(*_inputs(self._slots, name, order)), Event())
        going.future.add_done_callback(lambda _: going.over.set())  # once: a future keeps all that it is given
        self._going[number] = going

    def _points_of(self, number: int) -> dict[str, Point]:
        over = self.study.trials.get(number)
        return dict(over.points) if over else self._points[number]

    def _await(self, count: int) -> None:
        """Wait until the first so many trials are over; keep what came of each, and of others that are over."""
        while True:
            for number in sorted(self._going):
                if self._going[number].over.is_set():
                    self._over(number, self._going.pop(number).future.result())
            if not any(number < count for number in self._going):
                return
            self._going[min(self._going)].over.wait(_LOOK_SECONDS)

    def _over(self, number: int, outcome: Outcome) -> None:
        trial = self.study.add(number, self._points[number], outcome)
        note("search", f"trial {number} {told(trial)}")


def _inputs(slots: "SimpleQueue[TrialProcess]", name: str, order: Order) -> tuple[Any, Any, Any]:
    """Quote the inputs, which Prefect would walk."""
    return quote(slots), name, quote(order)


def told(trial: Trial) -> str:
    """Say what came of a trial."""
    outcome = trial.outcome
    if outcome.state == "done":
        return f"is done: {trial.measured:.4f} by {outcome.candidate}, {outcome.seconds:.0f} s"
    return f"{'was' if outcome.state in ('stopped', 'refused') else 'has'} {outcome.state}: {outcome.reason}"


def task_name(words: str) -> str:
    """Return what Prefect calls a task's run: it fills names in, so the braces of values are doubled."""
    return words[:100].replace("{", "{{").replace("}", "}}")


def _run(slots: "SimpleQueue[TrialProcess]", name: str, order: Order) -> Outcome:
    """Run one trial in a process of its own."""
    process = slots.get()
    try:
        outcome = process.run(name, order)
    finally:
        slots.put(process)
    get_run_logger().info("%s %s", outcome.state, outcome.reason or outcome.value)
    return outcome


_trial = Task(_run, name="trial", cache_policy=NO_CACHE, persist_result=False)
