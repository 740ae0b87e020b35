"""The end of an installation's runs: each saves what it trained, and what looks anew each time just ends."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable

from deployments.machine import programs
from deployments.machine.api import Api, Run
from deployments.machine.lost_runs import stopped_here
from deployments.machine.processes import Process, end, kill, marked, running_flows
from deployments.machine.state import StateFolder
from deployments.resuming import ANEW
from ftlib.errors import TransientError
from ftlib.wording import counted

RUN_SECONDS = 60.0
"""What runs get to end their step and save it once they are asked to stop."""


def stop_runs(
    folder: StateFolder, api: Api | None, pool: str, hurry: threading.Event, say: Callable[[str], None]
) -> list[Run]:
    """End the processes of an installation's runs, and return those of its runs that were going on.

    Without an API which these were is not known. Once `hurry` is set nothing is waited for.
    """
    going_on: list[Run] = []
    processes = [one for one in marked(folder.root) if one.runs_flow()]
    if api:
        pids = {one.pid for one in processes}
        flows = {id_: those for id_, those in running_flows().items() if pids & {one.pid for one in those}}
        try:
            going_on = stopped_here(api, pool, programs.worker_name(folder), set(flows))
        except TransientError as error:
            say(f"which runs go on is not known: {error}")
        # Asked to end, one that looks anew would say that it crashed, and somebody is called.
        kill(one for run in going_on if run.flow in ANEW for one in flows.get(run.id, []))
        processes = [one for one in processes if one.lives()]
    if processes:
        saving = counted(sum(run.flow not in ANEW for run in going_on), "run")
        say(f"{saving} ends its step and saves it, for at most {RUN_SECONDS:.0f} s")
        _end(folder, processes, hurry)
    return going_on


def _end(folder: StateFolder, processes: list[Process], hurry: threading.Event) -> None:
    """Ask processes to end, all of them once the first, which each flow itself is, have ended."""
    ids = {one.pid for one in processes}
    flows = [one for one in processes if not one.descends_from(ids)]
    for one in flows:
        one.send(signal.SIGTERM)
    deadline = time.monotonic() + RUN_SECONDS
    while any(one.lives() for one in flows) and time.monotonic() < deadline and not hurry.is_set():
        time.sleep(0.1)
    end([one for one in marked(folder.root) if one.runs_flow()], 0.0 if hurry.is_set() else 3.0)
