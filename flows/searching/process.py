"""A process that runs trials of a search, one after the other: `python -P -m flows.searching.process`.

Trainings seed the process's own random numbers, so two in one process would disturb each other. It is told an order by
a line on stdin, and says by lines on stdout what happens; what it makes is in the work place, as any run's. When stdin
ends, its parent is gone, and it ends too.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from importlib import import_module
from typing import Any, TextIO, TypeVar

from flows.run.steps import find_best, inputs, prepare
from ftlib.artifacts import Artifact
from ftlib.config import SELECTION, Config
from ftlib.data.listed import FileVersion
from ftlib.errors import (
    BusyError,
    DataError,
    Interrupted,
    ModelError,
    RecipeError,
    ReglageError,
    StorageError,
    TrainingError,
    TransientError,
    first_line,
)
from ftlib.evaluation.measured import Estimate, EvalReport
from ftlib.evaluation.selection import Selection
from ftlib.models.checkpoint import Checkpoint
from ftlib.progress import Progress, listen
from ftlib.recipe.file import recipe_from
from ftlib.recipe.recipe import Recipe
from ftlib.search.halving import WATCHED, Rung, goes_on, looks_of
from ftlib.search.trial import Look, Outcome, Used
from ftlib.stages.select import select
from ftlib.stages.step import Step, Steps, walk
from ftlib.stages.train import train
from ftlib.tracking.state import Curve
from ftlib.training.compute import Compute
from ftlib.training.curves import STEPS
from ftlib.workspace import Workspace
from tasks.ray_when_needed import RayWhenNeeded

T = TypeVar("T")

STOP, DONE, SIGN, MADE, FATAL = "stop", "done", "sign", "made", "fatal"
"""What lines are about."""
_PAUSES = (1.0, 5.0, 30.0)
"""Seconds between attempts at what may pass, as for a task of a run."""
_ORPHAN_SECONDS = 60.0
"""How long a process whose parent is gone may take to save its training."""


class Order(Config):
    """A trial to be run."""

    recipe: dict[str, Any]
    """The recipe with the trial's values, as JSON."""
    work: str
    files: dict[str, tuple[FileVersion, ...]]
    """What the sources listed when the search began."""
    metric: str
    """evaluation/metric by which trials are compared."""
    rungs: tuple[Rung, ...] = ()
    factor: int = 3
    """Of so many trials one goes on."""


class BehindError(Interrupted):
    """A trial is behind the others: its training ends."""


def trial_steps(r: Recipe, work: Workspace, given: Any) -> Steps[Selection | None]:
    """Yield a run's steps up to the choice by the validation split: no test row is read."""
    data = yield from prepare(r, given)
    going, answer = find_best(r, work, data, given.model), None
    while True:
        step = going.send(answer)
        answer = yield step
        if step.stage is select:
            going.close()
            return answer


def measured_value(r: Recipe, metric: str, reports: Sequence[EvalReport], selection: Selection) -> Estimate:
    """Return what a metric, as evaluation/metric, is of the chosen candidate on the validation rows."""
    name, of = r.metric(metric)
    for report in reports:
        for cell in report.measured:
            if (cell.candidate, cell.evaluation, cell.split) == (selection.chosen.name, name, SELECTION):
                return cell.metrics[of.name]
    raise ValueError(f"{metric} was not measured for {selection.chosen.name}")


@dataclass
class Trying:
    """One trial that goes on."""

    order: Order
    say: Callable[[str, Mapping[str, Any]], None]
    stopping: threading.Event
    ray: RayWhenNeeded
    """The process's: one session is kept for all its trials, for it starts slowly."""
    steps: list[Used] = field(default_factory=list[Used])
    work_seconds: float = 0.0
    end: Checkpoint | None = None
    """The last phase's."""
    reports: list[EvalReport] = field(default_factory=list[EvalReport])
    looks: tuple[Look, ...] = ()
    behind: str = ""
    """Why it is to end before its end."""
    _step: Step | None = None
    _curve: Curve | None = None

    def run(self) -> Outcome:
        """Run the trial.

        Raises what is no fault of its values: StorageError, BusyError, TransientError, Interrupted.
        """
        began = time.monotonic()
        outcome = self._outcome()
        return outcome.model_copy(
            update={
                "steps": tuple(self.steps),
                "looks": self.looks,
                "seconds": round(time.monotonic() - began, 3),
                "work_seconds": round(self.work_seconds, 3),
            }
        )

    def _outcome(self) -> Outcome:
        """Return what came of the trial, or why nothing did."""
        try:
            with listen(self):
                return self._measured()
        except BehindError as error:
            return Outcome(state="stopped", reason=str(error))
        except Interrupted:
            if self.behind:
                return Outcome(state="stopped", reason=self.behind)
            raise
        except (StorageError, BusyError, TransientError):
            raise
        except TrainingError as error:
            return Outcome(state="diverged", reason=str(error))
        except (RecipeError, ModelError, DataError) as error:
            return Outcome(state="refused", reason=str(error))
        except ReglageError:
            raise
        except Exception as error:
            return Outcome(state="failed", reason=f"{type(error).__name__}: {first_line(error)}")

    def _measured(self) -> Outcome:
        """Run the steps, and return what the choice is worth."""
        r = recipe_from("the trial", self.order.recipe)
        work = r.work_place(self.order.work)
        given = inputs(r, work, self.order.files)
        selection = walk(trial_steps(r, work, given), lambda step: self._made(step, work))
        if selection is None or self.end is None:
            raise ValueError("the steps came to nothing though each was answered")
        value = measured_value(r, self.order.metric, self.reports, selection)
        return Outcome(
            state="refused" if value.value is None else "done",
            reason=value.undefined and f"{self.order.metric} is undefined: {value.undefined}",
            value=value,
            candidate=selection.chosen.name,
            end=self.end.uri,
            started_from=self.end.parent or "",
        )

    def _made(self, step: Step, work: Workspace) -> Artifact:
        """Have a step's stage make its output, if it is not there."""
        job = step.job
        if job is None:
            raise ValueError(f"{step.label}: there is no job though each step before it was answered")
        before = work.making(job)
        if step.on_ray and before is None:
            self.ray.start()
        self._step = step
        self._curve = Curve(step.which, job.fingerprint, work.folder(job)) if step.stage is train else None
        artifact: Artifact = _patiently(lambda: step.stage(job, work))
        done = before is not None and before == work.making(job)
        seconds = 0.0 if done else artifact.seconds
        self.work_seconds += seconds
        self.steps.append(Used(stage=step.label, fingerprint=job.fingerprint))
        self._look()
        self.say(MADE, {"label": step.label, "done": done, "seconds": artifact.seconds})
        if isinstance(artifact, EvalReport):
            self.reports.append(artifact)
        if self._is_last_phase(step) and isinstance(artifact, Checkpoint):
            self.end = artifact
        return artifact

    def __call__(self, sign: Progress) -> None:
        """Hear a stage: pass it on, and end it where that is asked, or where the trial is behind."""
        self.say(SIGN, asdict(sign))
        if self.stopping.is_set():
            raise Interrupted(f"{sign.stage}: stopped on request")
        if sign.unit == STEPS and sign.facts.keys() & WATCHED.keys():
            self._judge()
        if self.behind:
            raise BehindError(self.behind)

    def _is_last_phase(self, step: Step) -> bool:
        return step.stage is train and step.which == str(self.order.recipe["phases"][-1]["name"])

    def _look(self) -> None:
        """Read the last phase's curve at the rungs that it has come to."""
        step = self._step
        if not self.order.rungs or step is None or self._curve is None or not self._is_last_phase(step):
            return
        if self.behind:  # what it showed beyond depends on when it was looked at
            return
        self._curve.read()
        epochs = float(self.order.recipe["phases"][-1]["optimizer"]["epochs"])
        self.looks = looks_of(self._curve.records, epochs, self.order.rungs)

    def _judge(self) -> None:
        """Say why the trial is to end, where it is behind at a rung."""
        self._look()
        for i, (look, rung) in enumerate(zip(self.looks, self.order.rungs, strict=False), 1):
            if not goes_on(look.loss, rung.before, self.order.factor):
                self.behind = (
                    f"behind at {look.share:.0%} of its last phase: a validation loss of {look.loss:.4g} is not among "
                    f"the best 1/{self.order.factor} of the {len(rung.before) + 1} that came there"
                )
                self.looks = self.looks[:i]
                return


def _patiently(call: Callable[[], T]) -> T:
    for pause in _PAUSES:
        try:
            return call()
        except TransientError:
            time.sleep(pause)
    return call()


def main() -> None:
    """Take orders until stdin ends."""
    lines = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)  # whatever a library prints is no line of ours
    stopping, orders = threading.Event(), _Orders()
    threading.Thread(target=orders.read, args=(sys.stdin, stopping), daemon=True).start()
    speaking = threading.Lock()

    def say(what: str, facts: Mapping[str, Any]) -> None:
        with speaking, suppress(BrokenPipeError):
            lines.write(json.dumps({"about": what, **facts}) + "\n")

    import_module("ftlib.training.worker")  # the parent starts this process before it has an order for it
    with suppress(KeyboardInterrupt), ExitStack() as session:
        ray: RayWhenNeeded | None = None
        while (line := orders.next()) is not None:
            order = Order.model_validate_json(line)
            # Of one search, whose trials all compute alike.
            ray = ray or session.enter_context(RayWhenNeeded(Compute.model_validate(order.recipe["compute"])))
            try:
                outcome = Trying(order, say, stopping, ray).run()
                say(DONE, {"outcome": outcome.model_dump(mode="json")})
            except ReglageError as error:
                say(FATAL, {"kind": type(error).__name__, "message": str(error)})
            else:
                if outcome.state == "failed":  # perhaps Ray's own processes are gone
                    ray.stop()


class _Orders:
    """Lines of stdin: orders, and a word to stop."""

    def __init__(self) -> None:
        self._waiting: list[str | None] = []
        self._news = threading.Condition()

    def read(self, stdin: TextIO, stopping: threading.Event) -> None:
        """Read until stdin ends; then the process ends, whatever it does."""
        for line in stdin:
            if json.loads(line) == STOP:
                stopping.set()
                continue
            self._give(line)
        stopping.set()
        self._give(None)
        time.sleep(_ORPHAN_SECONDS)
        os._exit(Interrupted.exit_code)

    def _give(self, line: str | None) -> None:
        with self._news:
            self._waiting.append(line)
            self._news.notify()

    def next(self) -> str | None:
        """Wait for the next order; None where there will be none."""
        with self._news:
            self._news.wait_for(lambda: bool(self._waiting))
            return self._waiting.pop(0)


if __name__ == "__main__":
    main()
