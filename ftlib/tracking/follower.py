"""Shows trackers a run while it goes on, each on a thread of its own: none of them holds up a step, or another."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from contextvars import copy_context
from dataclasses import replace
from pathlib import Path

from ftlib.errors import first_line
from ftlib.evaluation.measured import EvalReport
from ftlib.progress import note
from ftlib.recipe.recipe import Recipe
from ftlib.tracking.run_facts import RunFacts
from ftlib.tracking.state import Curve, End, RunState

_EVERY_SECONDS = 1.0
_AGAIN_SECONDS = 30.0
_END_SECONDS = 20.0
"""How long a run that is over waits for its trackers."""


class Tracker(ABC):
    """Keeps a picture of a run elsewhere."""

    name: str
    """What messages call it."""

    @abstractmethod
    def show(self, state: RunState) -> None:
        """Bring the picture up to this state. It is asked again with later states, and after it raised."""

    def settle(self, state: RunState) -> None:
        """Say what became of a run that is over, where that is said: a retraining was approved, or it was not."""
        del state

    def close(self) -> None:
        """Let go of files."""
        return


class Follower:
    """One run, shown to trackers until it is over."""

    def __init__(self, recipe: Recipe, trackers: Sequence[Tracker]) -> None:
        self.watched = [_Watched(RunState(recipe), tracker) for tracker in trackers]

    def trains(self, name: str, fingerprint: str, folder: Path) -> None:
        """Say that a training begins, or was done before, in a workspace's folder."""
        for each in self.watched:
            with each.lock:
                each.state.curves.append(Curve(name, fingerprint, folder))

    def prepared(self, name: str, content: str) -> None:
        """Say what a dataset holds."""
        for each in self.watched:
            with each.lock:
                each.state.data[name] = content

    def measured(self, report: EvalReport) -> None:
        """Say what was measured."""
        for each in self.watched:
            with each.lock:
                each.state.reports.append(report)
                each.news = True

    def published(self, version: str) -> None:
        """Say what became of the run."""
        for each in self.watched:
            with each.lock:
                each.state.published = version

    def entered(self, facts: RunFacts) -> None:
        """Say what the index of runs keeps of it; once more, where a retraining is settled after its end."""
        for each in self.watched:
            each.enter(facts)

    def start(self) -> None:
        """Begin to look."""
        for each in self.watched:
            each.thread.start()

    def end(self, how: End) -> None:
        """Show the run's end, and wait a while until that is done. Says where it is not."""
        for each in self.watched:
            each.end(how)
        deadline = time.monotonic() + _END_SECONDS
        for each in self.watched:
            each.thread.join(max(0.0, deadline - time.monotonic()))
            if each.thread.is_alive():
                note("tracking", f"{each.tracker.name} does not answer: not all of the run is there; run it again")


class _Watched:
    """A tracker, with what it is to be shown."""

    def __init__(self, state: RunState, tracker: Tracker) -> None:
        self.state, self.tracker = state, tracker
        self.lock, self.done, self.news = threading.Lock(), threading.Event(), False
        self._how: End = ""
        self._warned, self._next = False, 0.0
        context = copy_context()  # a run page files notes under the flow that runs
        self.thread = threading.Thread(
            target=context.run, args=(self._run,), name=f"track by {tracker.name}", daemon=True
        )

    def enter(self, facts: RunFacts) -> None:
        """Take what the index keeps; after the end the tracker is told at once, and not waited for for long."""
        with self.lock:
            self.state.facts, self.news = facts, True
        over = self.done.is_set() and not self.thread.is_alive()  # one that does not answer is not asked again
        if over and self.state.curves:
            thread = threading.Thread(target=copy_context().run, args=(self._settle,), daemon=True)
            thread.start()
            thread.join(_END_SECONDS)

    def _settle(self) -> None:
        try:
            self.tracker.settle(replace(self.state, ended=self._how))
        except Exception as error:  # whatever a tracker does, the run goes on
            self._warn(error)

    def end(self, how: End) -> None:
        """Look once more, and no more."""
        self._how = how
        self.done.set()

    def _run(self) -> None:
        ended = False
        while not ended:
            ended = self.done.wait(_EVERY_SECONDS)  # one look more, at the last steps
            if ended or time.monotonic() >= self._next:
                try:
                    self._look(ended)
                except Exception as error:  # whatever a tracker does, the run goes on
                    self._warn(error)
        with suppress(Exception):
            self.tracker.close()

    def _look(self, ended: bool) -> None:
        """Show the state where it is another one; before the first training it is not known which run this is."""
        with self.lock:
            state = replace(self.state, reports=[*self.state.reports], curves=[*self.state.curves])
            news, self.news = self.news or ended, False
        news = sum(curve.read() for curve in state.curves) > 0 or news
        if state.curves and news:
            self.news = True  # until it is shown
            state.ended = self._how if ended else ""
            self.tracker.show(state)
            self.news = False

    def _warn(self, error: Exception) -> None:
        self._next = time.monotonic() + _AGAIN_SECONDS
        if not self._warned:
            self._warned = True
            note("tracking", f"{self.tracker.name} refuses what the run says: {first_line(error)}; the run goes on")
