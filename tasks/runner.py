"""Runs stages as tasks for one flow run, and keeps account of them.

The truth is the workspace's record, not Prefect's cache: where the record is gone the cache entry is refreshed, so
deleting the work folder re-runs the stages, and what a stage returns is always what it reads from its own folder.
"""

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from threading import Event, Timer, current_thread, main_thread
from time import monotonic
from typing import Any, TypeVar, cast

from prefect import Task
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture
from prefect.utilities.annotations import quote

from ftlib.artifacts import Artifact
from ftlib.config import Config
from ftlib.data.datasets import PreparedDataset, RawDataset
from ftlib.errors import Interrupted, TransientError
from ftlib.fingerprint import Job
from ftlib.models.checkpoint import Checkpoint
from ftlib.progress import Progress, emit, listen
from ftlib.stages.step import Step, Steps, walk
from ftlib.tracking.run_facts import RunFacts
from ftlib.training.compute import Compute
from ftlib.workspace import Workspace
from tasks.assess import batch_norm, diverge, evaluate
from tasks.ray_when_needed import RayWhenNeeded
from tasks.stages import TASKS
from tasks.train import answer, fisher, prune, revise, score, train, uphold

A = TypeVar("A", bound=Artifact)
T = TypeVar("T")


SAVING_SECONDS = 20.0
"""How long a training that was stopped may take to end its step and save it."""
GRACE_SECONDS = 60.0
"""How long a stage that is over its time may take to end; then the process ends with it. It cannot lose anything: what
is half made is invisible."""

STAGE = "stage"
"""The unit of the sign of life that says a whole stage is done."""
DROPPED = "dropped "
"""What begins the name of the fact that says how many rows a stage dropped for a reason."""


SPELT = "spelt:"
"""Before a special token that texts spell, among what is told of a prepared dataset."""
CHANGED = "changed:"
"""Before what was done to images."""


class StageRun(Config):
    """What one stage call of a run took."""

    stage: str
    """What it does, for example `train tune`."""
    fingerprint: str
    done_before: bool
    """True where an earlier run had made the output."""
    seconds: float
    """Wall time of the call in this run, Prefect's share included."""
    work_seconds: float
    """Of these, the stage's own work; 0 where it was done before."""


def _unseen(step: Step, artifact: Artifact) -> None:
    del step, artifact


def _unheard(step: Step) -> None:
    del step


def _untold(facts: RunFacts) -> None:
    del facts


@dataclass
class Runner:
    """Runs stages in one workspace and lists what it ran."""

    work: Workspace
    compute: Compute = field(default_factory=Compute)
    """Where Ray is, for the steps that need it."""
    made: Callable[[Step, Artifact], object] = _unseen
    """Called with each step and what its stage made."""
    begun: Callable[[Step], object] = _unheard
    """Called with each step before it is made."""
    entered: Callable[[RunFacts], object] = _untold
    """Called with what the index of runs keeps of the run, when it has ended."""
    steps: list[StageRun] = field(default_factory=list[StageRun])
    whose: str = ""
    """Said before every stage's name, where a run has the same stages for another model."""

    def through(self, steps: Callable[[], Steps[T | None]]) -> T:
        """Run steps as tasks, one after the other, and return what they come to. Raises whatever a stage raises.

        `steps` is called twice: once without answers, to know what will be due.
        """
        due: list[Step] = []
        walk(steps(), due.append)
        following = {step.label: due[i + 1 :] for i, step in enumerate(due)}
        with RayWhenNeeded(self.compute) as ray:
            end = walk(steps(), lambda step: self._made(step, following.get(step.label, []), ray))
        if end is None:
            raise ValueError("the steps came to nothing though each was answered")
        return end

    def _made(self, step: Step, following: Sequence[Step], ray: RayWhenNeeded) -> Artifact:
        """Run one step. Starting Ray and ending it take seconds each, most of them waiting: both are done meanwhile."""
        job = step.job
        if job is None:
            raise ValueError(f"{step.label}: there is no job though each step before it was answered")
        task, to_do, meanwhile = TASKS[job.stage], not self.work.has(job), None
        if step.on_ray:
            if to_do:
                ray.start()
        elif not any(later.on_ray for later in following):
            meanwhile = ray.stop
        elif to_do and following[0].on_ray:
            meanwhile = ray.start
        self.begun(step)
        # What asks models on Ray only waits for it, and does so here.
        asking = (answer, batch_norm, evaluate, revise, score, uphold)
        if task in (prune, train, fisher, diverge) or (task in asking and not step.on_ray):
            artifact = self.on_thread(task, job, step.label, meanwhile)
        else:
            artifact = self.here(task, job, step.label)
        self.made(step, artifact)
        return artifact

    def about(self, whose: str) -> "Runner":
        """Return the runner of the same run for the stages of another model, which have names of their own."""
        return replace(self, whose=whose, made=_unseen, begun=_unheard)

    def here(self, task: Task[..., A], job: Job, label: str) -> A:
        """Run a stage on this thread and return its artifact. Raises whatever the stage raises."""
        return self._account(task, job, label, lambda named: named(*self._inputs(job), return_state=True))

    def on_thread(self, task: Task[..., A], job: Job, label: str, meanwhile: Callable[[], object] | None = None) -> A:
        """Run a stage on another thread and wait, so that this one, the main one, stays free for signals.

        `meanwhile` runs on this thread as soon as the stage has been handed over. The task's time-out is held here:
        Prefect can stop a call only on the main thread. Raises TransientError when it is over.
        """
        stopped, listening = Event(), ExitStack()

        def check(sign: Progress) -> None:
            if stopped.is_set() and current_thread() is not main_thread():
                raise Interrupted(f"{sign.stage}: stopped on request")

        def call(named: Task[..., Any]) -> State[Any]:
            listening.enter_context(listen(check))
            future = named.with_options(timeout_seconds=0).submit(*self._inputs(job))
            try:
                if meanwhile:
                    meanwhile()
                _wait(future, self._name(label), task.timeout_seconds)
            except BaseException:
                # Ctrl-C, a cancel, or its time is over: the thread ends at its next sign of life, and Prefect waits for
                # that. So the listener stays; and Ray, which ends with this block, for as long as workers may save.
                stopped.set()
                with suppress(Exception):
                    future.wait(SAVING_SECONDS)
                raise
            listening.close()
            return future.state

        return self._account(task, job, label, call)

    def _account(self, task: Task[..., A], job: Job, label: str, call: Callable[[Task[..., Any]], State[Any]]) -> A:
        """Run a stage by `call`, note what it took, however it ended, and return what it made."""
        started, before, name = monotonic(), self.work.making(job), self._name(label)
        named = task.with_options(
            task_run_name=name,
            refresh_cache=before is None,
            result_storage=self.work.root / "prefect" / "results",
        )
        try:
            state = call(named)
            ended = state.name == "Cached" or state.is_completed()
        except BaseException:
            self._ended_early(name, job, monotonic() - started)
            raise
        if not ended:
            self._ended_early(name, job, monotonic() - started)
        # The record in the stage's own folder is the truth: what Prefect stored may name a folder that has moved.
        artifact = task.fn(job, self.work) if state.name == "Cached" else cast("A", state.result())
        seconds = round(monotonic() - started, 3)
        done = before is not None and before == self.work.making(job)
        work = 0.0 if done else artifact.seconds
        ran = StageRun(stage=name, fingerprint=job.fingerprint, done_before=done, seconds=seconds, work_seconds=work)
        self.steps.append(ran)
        emit(name, 1, 1, STAGE, done_before=float(done), seconds=artifact.seconds, **telling(artifact))
        return artifact

    def _ended_early(self, name: str, job: Job, seconds: float) -> None:
        """Count what a stage took that made nothing: it used what it used."""
        took = round(seconds, 3)
        ran = StageRun(stage=name, fingerprint=job.fingerprint, done_before=False, seconds=took, work_seconds=took)
        self.steps.append(ran)

    def _name(self, label: str) -> str:
        return f"{self.whose}: {label}" if self.whose else label

    def _inputs(self, job: Job) -> tuple[Any, Any]:
        """Quote the inputs: Prefect walks everything else, which costs seconds for a report's records."""
        return quote(job), quote(self.work)


def _wait(future: PrefectFuture[Any], name: str, limit: float | None) -> None:
    """Wait for a stage on another thread. Raises TransientError if its time is over before it has ended.

    The thread ends at its next sign of life. One that never gives one, on a disk that hangs, ends with the process,
    for which the run would wait for ever.
    """
    ended = Event()
    future.add_done_callback(lambda _: ended.set())
    if ended.wait(limit):
        future.wait()
        return
    line = f"{name}: still going on after {limit:g} s, which is its limit; the next run goes on from what is there"

    def end() -> None:
        if not ended.is_set():
            os.write(sys.stderr.fileno(), f"reglage: {line}\n".encode())
            os._exit(TransientError.exit_code)

    timer = Timer(GRACE_SECONDS, end)
    timer.daemon = True
    timer.start()
    raise TransientError(line)


def telling(artifact: Artifact) -> dict[str, float]:
    """Return what a user should see of a finished stage without asking: rows lost, a resumed training."""
    if isinstance(artifact, (RawDataset, PreparedDataset)):
        ledger = artifact.ledger
        dropped = {f"{DROPPED}{reason}": float(count) for reason, count in ledger.dropped.items() if count}
        spelt = artifact.special_tokens if isinstance(artifact, PreparedDataset) else {}
        told = {f"{SPELT}{token}": float(rows) for token, rows in spelt.items()}
        changes = artifact.image_changes if isinstance(artifact, PreparedDataset) else {}
        told |= {f"{CHANGED}{change}": float(rows) for change, rows in changes.items()}
        return {"rows_in": ledger.rows_in, "rows_kept": ledger.kept, **dropped, **told}
    if isinstance(artifact, Checkpoint) and (step := artifact.facts.get("resumed_from_step")):
        return {"resumed_from_step": float(step)}
    return {}
