"""Runs whose process is gone: said to have crashed at once, by the one who can look, and not after three heartbeats."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from deployments.machine.api import GOING_ON, Api, Run
from deployments.machine.processes import running_flows
from ftlib.errors import TransientError

LOOKS = {"RUNNING": 2, "CANCELLING": 2, "PENDING": 4}
"""In how many looks in a row a run must have no process: its worker may be about to start or to report it."""


@dataclass
class LostRuns:
    """Looks for runs of this installation that go on in Prefect and nowhere else."""

    api: Api
    say: Callable[[str], None]
    _seen: dict[str, int] = field(default_factory=dict[str, int])
    """How often each was seen without a process, by the id of its state."""

    def look(self, *, at_once: bool = False) -> list[Run]:
        """End the runs that have no process, and return them; `at_once`: no worker lives that could be at it."""
        try:
            runs = self.api.runs(GOING_ON)
            alive = running_flows()  # after the question: a run that ended meanwhile is asked about, none is missed
            without = [run for run in runs if run.id not in alive]
            self._seen = {run.state_id: self._seen.get(run.state_id, 0) + 1 for run in without}
            lost = [run for run in without if at_once or self._seen[run.state_id] >= LOOKS[run.state]]
            for run in lost:
                self.end(run)
        except TransientError:  # the server is just starting again; there is another look
            return []
        return lost

    def end(self, run: Run) -> None:
        if run.state == "CANCELLING":
            self.api.end_run(run, "CANCELLED", "Cancelled", "Its process is gone.")
            self.say(f"run {run.name!r} was being cancelled, and its process is gone: cancelled")
            return
        message = "Its process is gone: it was killed, or the machine stopped. Run again, it goes on from where it was."
        self.api.end_run(run, "CRASHED", "Crashed", message)
        self.say(f"run {run.name!r} has no process any more: crashed")


def put_back(api: Api, stopped: list[Run], say: Callable[[str], None]) -> None:
    """Let runs that were stopped with their installation wait for the next `up`; a run that is being cancelled ends."""
    for before in stopped:
        try:
            run = api.run(before.id)
            if before.state == "CANCELLING":
                LostRuns(api, say).end(before)
            elif run.state in ("CRASHED", "RUNNING", "PENDING"):
                api.schedule(run, "Stopped together with its machine's installation; it goes on when that is up again.")
                say(f"run {run.name!r} waits for the next `reglage up`, and goes on then")
        except TransientError as error:
            say(f"run {before.name!r}: {error}")
