"""Who is said to have crashed, and who is left alone: by a Prefect server of a dozen lines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from deployments.machine import api as api_module
from deployments.machine.api import Api, Run
from deployments.machine.lost_runs import LOOKS, LostRuns, put_back, stopped_here
from deployments.machine.processes import FLOW_RUN, process
from ftlib.errors import TransientError

POOL, MINE = "reglage", "here-1"
RUNS: dict[str, str] = {}
"""The type of each run's state."""
FLOWS: dict[str, str] = {}
"""The flow of each run that is none of finetune."""
HEARD: dict[str, timedelta] = {}
"""How long ago each worker was heard."""
SET: list[tuple[str, str, bool]] = []


class Server(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/api/health":
            return self.say(True)
        if self.path.startswith("/api/flows/"):
            return self.say({"name": self.path.rpartition("/")[2].removeprefix("id-of-")})
        return self.say(self.run_(self.path.rpartition("/")[2]))

    def do_POST(self) -> None:
        asked: dict[str, Any] = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.path == "/api/flow_runs/filter":
            wanted = asked["flow_runs"]["state"]["type"]["any_"]
            found = [self.run_(id_) for id_, state in RUNS.items() if state in wanted]
            return self.say(found[asked["offset"] :][: asked["limit"]])
        if self.path == f"/api/work_pools/{POOL}/workers/filter":
            now = datetime.now(UTC)
            return self.say([{"name": name, "last_heartbeat_time": str(now - ago)} for name, ago in HEARD.items()])
        run = self.path.split("/")[3]
        SET.append((run, asked["state"]["type"], asked.get("force", False)))
        RUNS[run] = asked["state"]["type"]
        return self.say({"status": "ACCEPT"})

    def run_(self, id_: str) -> dict[str, str]:
        state = RUNS[id_]
        return {
            "id": id_,
            "name": f"run {id_}",
            "state_type": state,
            "state_name": state,
            "state_id": f"{id_}{state}",
            "flow_id": f"id-of-{FLOWS.get(id_, 'finetune')}",
        }

    def say(self, answer: object) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()


@pytest.fixture
def server(url: str) -> Api:
    RUNS.clear()
    FLOWS.clear()
    HEARD.clear()
    HEARD[MINE] = timedelta()
    SET.clear()
    return Api(url)


@pytest.fixture
def living() -> Iterator[subprocess.Popen[bytes]]:
    """A run's process whose worker is gone."""
    sleep = [sys.executable, "-S", "-c", "import time; time.sleep(60)"]
    running = subprocess.Popen(sleep, env={**os.environ, FLOW_RUN: "alive"}, start_new_session=True)
    yield running
    running.kill()
    running.wait()


def test_where_no_worker_lives_a_run_without_a_process_has_crashed_at_once(server, living):
    RUNS.update(alive="RUNNING", gone="RUNNING", never="PENDING", stopped="CANCELLING", waits="SCHEDULED")
    said: list[str] = []
    LostRuns(server, POOL, MINE, said.append).look()
    assert sorted(SET) == [("gone", "CRASHED", False), ("never", "CRASHED", False), ("stopped", "CANCELLED", False)]
    assert len(said) == 3


def test_beside_a_worker_a_state_must_be_some_looks_old(server):
    RUNS.update(gone="RUNNING", starts="PENDING")
    lost, worker = LostRuns(server, POOL, MINE, lambda _: None), process(os.getpid())
    seen: dict[str, int] = {}
    for look in range(1, max(LOOKS.values()) + 1):
        lost.look(worker)
        seen |= {run: look for run, *_ in SET if run not in seen}
    assert seen == {"gone": LOOKS["RUNNING"], "starts": LOOKS["PENDING"]}


def test_a_cancelled_run_whose_worker_died_is_ended_and_another_is_its_workers(server, living):
    RUNS["alive"] = "CANCELLING"
    lost = LostRuns(server, POOL, MINE, lambda _: None)
    for _ in range(3):
        lost.look(process(os.getpid()))  # our child: this worker watches it
    assert SET == []
    assert living.poll() is None
    other = process(os.getppid())
    assert other is not None
    lost.look(other.model_copy(update={"pid": 2**22 + 1}))
    assert SET == [("alive", "CANCELLED", False)]
    assert living.wait(5) == -9


def test_what_was_stopped_waits_and_what_ended_by_itself_does_not(server):
    RUNS.update(a="RUNNING", b="RUNNING", c="CANCELLING", d="PENDING")
    stopped = server.runs(("RUNNING", "CANCELLING", "PENDING"), POOL)
    RUNS.update(a="CRASHED", b="COMPLETED")
    put_back(server, stopped, lambda _: None)
    assert sorted(SET) == [("a", "SCHEDULED", True), ("c", "CANCELLED", False), ("d", "SCHEDULED", True)]


@pytest.mark.parametrize("flow", ["rollback", "promote", "somebody-elses"])
def test_what_does_not_go_on_from_where_it_was_is_not_run_again(server, flow: str):
    """A rollback that was stopped after its move, and run again, brings the bad version back."""
    RUNS.update(a="RUNNING", b="RUNNING", c="CANCELLING", d="PENDING", e="RUNNING")
    FLOWS.update(dict.fromkeys(RUNS, flow))
    stopped, said = server.runs(("RUNNING", "CANCELLING", "PENDING"), POOL), list[str]()
    RUNS.update(a="CRASHED", e="COMPLETED")
    put_back(server, stopped, said.append)
    assert sorted(SET) == [("b", "CRASHED", False), ("c", "CANCELLED", False), ("d", "CRASHED", False)]
    assert [flow in line and "not run again by itself" in line for line in said] == [True, True, False, True]


def test_what_looks_anew_each_time_is_cancelled_and_nobody_is_called(server):
    RUNS.update(a="RUNNING", b="PENDING", c="COMPLETED", d="RUNNING")
    FLOWS.update(a="watch", b="monitor", c="janitor", d="janitor")
    stopped, said = server.runs(("RUNNING", "PENDING"), POOL), list[str]()
    put_back(server, stopped, said.append)
    assert sorted(SET) == [("a", "CANCELLED", False), ("b", "CANCELLED", False), ("d", "CANCELLED", False)]
    assert all("the next one looks again" in line for line in said)


@pytest.mark.parametrize(
    ("minutes", "served"), [(0, True), (60, True), (2 * 24 * 60, False)], ids=["online", "offline", "gone"]
)
def test_beside_another_worker_no_run_is_judged_by_the_processes_of_this_machine(server, minutes: int, served: bool):
    """One that is offline was perhaps not heard because the server was down."""
    HEARD["elsewhere"] = timedelta(minutes=minutes)
    RUNS.update(theirs="RUNNING", starts="PENDING", stops="CANCELLING", mine="RUNNING")
    stopped = stopped_here(server, POOL, MINE, {"mine"})
    assert {run.id for run in stopped} == ({"mine"} if served else {*RUNS})
    said: list[str] = []
    lost = LostRuns(server, POOL, MINE, said.append)
    for _ in range(2):
        lost.look()
    assert {run for run, *_ in SET} == (set() if served else {*RUNS})
    assert ["is also served by elsewhere" in line for line in said] == ([True] if served else [False] * 4)


def test_more_runs_than_one_page_are_all_read(server, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(api_module, "_PAGE", 3)
    RUNS.update({str(number): "RUNNING" for number in range(7)})
    assert [run.id for run in server.runs(("RUNNING",), POOL)] == list(map(str, range(7)))


def test_no_server_is_no_answer_and_no_error(server):
    assert server.answers()
    nobody = Api("http://127.0.0.1:1")
    assert not nobody.answers()
    with pytest.raises(TransientError, match="look at the server's log"):
        nobody.runs(("RUNNING",), POOL)
    LostRuns(nobody, POOL, MINE, lambda _: None).look()


@pytest.mark.parametrize(
    ("state", "minutes", "later"),
    [("SCHEDULED", 5, True), ("SCHEDULED", -5, False), ("PAUSED", 5, False), ("SCHEDULED", None, False)],
)
def test_a_run_that_only_the_clock_keeps_does_not_wait(state: str, minutes: int | None, later: bool):
    due = None if minutes is None else (datetime.now(UTC) + timedelta(minutes=minutes)).isoformat()
    assert Run(id="1", name="x", state=state, state_name="", state_id="2", due=due).is_later() == later
