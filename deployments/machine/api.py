"""The few calls that the supervisor makes to its own Prefect server, without importing Prefect, which takes seconds."""

from __future__ import annotations

import base64
import json
import os
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from ftlib.config import Config
from ftlib.errors import TransientError, first_line

ANSWER_SECONDS = 10.0
_PAGE = 200
GOING_ON = ("RUNNING", "PENDING", "CANCELLING")
WAITING = ("SCHEDULED", "PAUSED")
GONE = timedelta(days=1)
"""How long a worker must not have been heard to be gone: while the server was down, none could be."""


class Run(Config):
    """A flow run, as far as the supervisor needs it."""

    id: str
    name: str
    state: str
    """Its type in Prefect: RUNNING, PENDING, ..."""
    state_name: str
    state_id: str
    flow: str = ""
    """Its flow's name."""
    due: str | None = None
    """When a run that is scheduled is to begin."""

    def is_later(self) -> bool:
        """Say whether nothing but the clock keeps it."""
        return (
            self.state == "SCHEDULED" and self.due is not None and datetime.fromisoformat(self.due) > datetime.now(UTC)
        )


class Api:
    """Prefect's server at a URL; `PREFECT_SERVER_API_AUTH_STRING` of this process lets it in."""

    def __init__(self, url: str) -> None:
        self.url = f"{url}/api"
        auth = os.environ.get("PREFECT_SERVER_API_AUTH_STRING")
        self._headers = {"content-type": "application/json"}
        if auth:
            self._headers["Authorization"] = "Basic " + base64.b64encode(auth.encode()).decode()
        self._flows: dict[str, str] = {}
        """Names by id; they never change."""

    def answers(self, seconds: float = ANSWER_SECONDS) -> bool:
        """Say whether a Prefect server answers in time."""
        try:
            return self._call("GET", "/health", None, seconds) is True
        except TransientError:
            return False

    def runs(self, states: tuple[str, ...], pool: str) -> list[Run]:
        """Return the runs of a work pool that are in one of these states. Raises TransientError."""
        return [self._run(said) for said in self._pages(states, pool) if said.get("state_id")]

    def run(self, id_: str) -> Run:
        """Return one run as it is now. Raises TransientError."""
        return self._run(self._call("GET", f"/flow_runs/{id_}", None))

    def end_run(self, run: Run, state: str, name: str, message: str) -> None:
        """Propose a run's last state; the server keeps another that came first. Raises TransientError."""
        wanted = {"state": {"type": state, "name": name, "message": message}}
        self._call("POST", f"/flow_runs/{run.id}/set_state", wanted)

    def schedule(self, run: Run, message: str) -> None:
        """Let a run begin again as soon as a worker is there; it finds what it finished. Raises TransientError."""
        wanted = {"state": {"type": "SCHEDULED", "name": "AwaitingRetry", "message": message}, "force": True}
        self._call("POST", f"/flow_runs/{run.id}/set_state", wanted)

    def worker_polls(self, name: str, since: float, pool: str) -> bool:
        """Say whether a worker of this name has been heard since a time, in seconds since 1970."""
        try:
            workers = self._call("POST", f"/work_pools/{pool}/workers/filter", {})
        except TransientError:
            return False
        for worker in workers:
            heard = worker.get("last_heartbeat_time")
            if worker["name"] == name and heard and datetime.fromisoformat(heard).timestamp() >= since:
                return worker.get("status") == "ONLINE"
        return False

    def other_workers(self, name: str, pool: str) -> list[str]:
        """Return the other workers of a pool, those that are offline for less than `GONE`, too.

        Their runs have no process that is seen from here. Raises TransientError.
        """
        since = datetime.now(UTC) - GONE
        return sorted(
            worker["name"]
            for worker in self._call("POST", f"/work_pools/{pool}/workers/filter", {})
            if worker["name"] != name
            and (heard := worker.get("last_heartbeat_time"))
            and datetime.fromisoformat(heard) > since
        )

    def _pages(self, states: tuple[str, ...], pool: str) -> Iterator[dict[str, Any]]:
        asked: dict[str, Any] = {
            "flow_runs": {"state": {"type": {"any_": list(states)}}},
            "work_pools": {"name": {"any_": [pool]}},
            "sort": "START_TIME_ASC",
            "limit": _PAGE,
        }
        offset = 0
        while page := self._call("POST", "/flow_runs/filter", {**asked, "offset": offset}):
            yield from page
            if len(page) < _PAGE:
                return
            offset += _PAGE

    def _run(self, said: dict[str, Any]) -> Run:
        return Run(
            id=said["id"],
            name=said["name"],
            state=said["state_type"],
            state_name=said["state_name"] or "",
            state_id=said["state_id"],
            flow=self._flow(said["flow_id"]),
            due=said.get("next_scheduled_start_time"),
        )

    def _flow(self, id_: str) -> str:
        if id_ not in self._flows:
            self._flows[id_] = self._call("GET", f"/flows/{id_}", None)["name"]
        return self._flows[id_]

    def _call(self, method: str, path: str, body: object, seconds: float = ANSWER_SECONDS) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, self._headers, method=method)
        try:
            with _OPENER.open(request, timeout=seconds) as answer:
                return json.loads(answer.read() or b"null")
        except (OSError, ValueError) as error:  # urllib's errors are OSErrors
            raise TransientError(f"{self.url}{path}: {first_line(error)}; look at the server's log") from error


_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Without the proxies of the environment: it is this machine."""
