"""Runs that Prefect takes for alive or for cancelled, and that are not: put right by the one who can look.

Heartbeats find a dead run, too, but only after three are missing; and a cancel never reaches a run whose worker died.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from deployments.machine.api import GOING_ON, Api, Run
from deployments.machine.processes import Process, kill, running_flows
from deployments.resuming import ANEW, RESUMING
from ftlib.errors import TransientError

LOOKS = {"RUNNING": 2, "CANCELLING": 2, "PENDING": 4}
"""How many looks old a state must be: a worker may be about to start, to end or to report the run."""

_BY_A_PERSON = "Look how far it came before you start it anew."


@dataclass
class LostRuns:
    """Looks for runs of this installation that go on in Prefect and nowhere else.

    Where another worker serves the pool, a run may be that one's, on its machine: none is judged.
    """

    api: Api
    pool: str
    worker_name: str
    """The worker of this installation."""
    say: Callable[[str], None]
    _others: list[str] = field(default_factory=list[str])
    _seen: dict[str, int] = field(default_factory=dict[str, int])
    """How often each state of a run was seen, by its id."""

    def look(self, worker: Process | None = None) -> None:
        """End the runs that have no process, and the processes of cancelled runs that no worker watches.

        Where no worker lives that could be about to start a run or to report one, one look is enough.
        """
        try:
            if self._beside_others():
                return
            runs = self.api.runs(GOING_ON, self.pool)
            flows = running_flows()  # after the question: a run that ended meanwhile is asked about, none is missed
            self._seen = {run.state_id: self._seen.get(run.state_id, 0) + 1 for run in runs}
            for run in runs:
                if worker is not None and self._seen[run.state_id] < LOOKS[run.state]:
                    continue
                if run.id not in flows:
                    end_lost(self.api, run, self.say)
                elif run.state == "CANCELLING":
                    self._kill_orphans(run, flows[run.id], worker)
        except TransientError:  # the server is just starting again; there is another look
            pass

    def _beside_others(self) -> bool:
        """Say whether other workers serve the pool, and once which."""
        others = self.api.other_workers(self.worker_name, self.pool)
        if others and others != self._others:
            self.say(
                f"pool {self.pool} is also served by {', '.join(others)}: which of its runs died is left to their "
                "heartbeats; give each worker a pool of its own"
            )
        self._others = others
        return bool(others)

    def _kill_orphans(self, run: Run, processes: list[Process], worker: Process | None) -> None:
        """End a cancelled run whose worker died: no other worker hears of the cancel."""
        if any(worker is not None and one.descends_from({worker.pid}) for one in processes):
            return
        kill(processes)  # asked to end, it would say that it crashed, and be run again
        end_lost(self.api, run, self.say)


def end_lost(api: Api, run: Run, say: Callable[[str], None]) -> None:
    """Give a run without a process its last state."""
    if run.state == "CANCELLING":
        api.end_run(run, "CANCELLED", "Cancelled", "Its process is gone.")
        say(f"run {run.name!r} was being cancelled, and its process is gone: cancelled")
        return
    again = "Run again, it goes on from where it was." if run.flow in RESUMING else _BY_A_PERSON
    message = f"Its process is gone: it was killed, or the machine stopped. {again}"
    api.end_run(run, "CRASHED", "Crashed", message)
    say(f"run {run.name!r} has no process any more: crashed")


def stopped_here(api: Api, pool: str, worker_name: str, ids: set[str]) -> list[Run]:
    """Return the runs that end with this installation, of whose runs these have a process. Raises TransientError.

    One without a process is its worker's, which was about to start or to report it, unless there are others.
    """
    going_on = api.runs(GOING_ON, pool)
    return going_on if not api.other_workers(worker_name, pool) else [run for run in going_on if run.id in ids]


def put_back(api: Api, stopped: list[Run], say: Callable[[str], None]) -> None:
    """Let runs that were stopped with their installation wait for the next `up`; a run that is being cancelled ends.

    So does one that does not go on from where it was: a rollback that had moved its alias already would move it back.
    One that looks anew each time is cancelled, and nobody is called for it.
    """
    for before in stopped:
        try:
            run = api.run(before.id)
            if before.state == "CANCELLING":
                end_lost(api, before, say)
            elif run.state not in ("CRASHED", "RUNNING", "PENDING"):
                continue  # it ended by itself
            elif run.flow in RESUMING:
                api.schedule(run, "Stopped together with its machine's installation; it goes on when that is up again.")
                say(f"run {run.name!r} waits for the next `reglage up`, and goes on then")
            elif run.flow in ANEW:
                message = "Stopped together with its machine's installation; the next one looks again."
                api.end_run(run, "CANCELLED", "Cancelled", message)
                say(f"run {run.name!r} of {run.flow} was stopped; the next one looks again")
            else:
                if run.state != "CRASHED":
                    api.end_run(
                        run, "CRASHED", "Crashed", f"Stopped together with its machine's installation. {_BY_A_PERSON}"
                    )
                say(f"run {run.name!r} of {run.flow} was stopped: crashed, and not run again by itself. {_BY_A_PERSON}")
        except TransientError as error:
            say(f"run {before.name!r}: {error}")
