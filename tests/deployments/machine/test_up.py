"""`reglage up` for real: programs killed one by one and all at once, runs that go on, PostgreSQL, two at once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from deployments.machine.processes import marked, process
from deployments.machine.state import StateFolder
from ftlib.testing import tiny_recipe
from infra import postgres

pytestmark = [pytest.mark.slow, pytest.mark.prefect, pytest.mark.timeout(2400)]

MINUTES = 60.0


class Home:
    """A folder in which `reglage up` runs, and what one asks it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder, self.state = folder, StateFolder(folder)
        self.recipe = tiny_recipe(folder)

    def start(self, *words: str | Path, **variables: str) -> subprocess.Popen[str]:
        environment = {**os.environ, "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30", **variables}
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "ftlib", *map(str, words), "--home", str(self.folder)],
            env=environment,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def reglage(self, *words: str | Path, **variables: str) -> tuple[int, str, str]:
        child = self.start(*words, **variables)
        out, err = child.communicate(timeout=10 * MINUTES)
        return child.returncode, out, err

    def up(self, *words: str | Path, **variables: str) -> dict[str, Any]:
        code, out, err = self.reglage("up", "--detach", "--json", *words, **variables)
        assert code == 0, out + err  # with --json the error is on stdout
        return json.loads(out)

    def status(self) -> dict[str, Any]:
        return json.loads(self.reglage("status", "--json")[1])

    def call(self, path: str, body: object = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"{self.status()['url']}/api{path}", data, {"content-type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read() or b"null")

    def train(self, epochs: int) -> str:
        """Start a run from the form that is always there; return its id."""
        deployment = self.call("/deployments/name/finetune/finetune")
        parameters = {
            "recipe": str(self.recipe),
            "work": str(self.folder / "work"),
            "overrides": [f"phases.tune.optimizer.epochs={epochs}", "compute.checkpoint_seconds=2"],
        }
        return self.call(f"/deployments/{deployment['id']}/create_flow_run", {"parameters": parameters})["id"]

    def run(self, id_: str) -> dict[str, Any]:
        return self.call(f"/flow_runs/{id_}")

    def kill(self, *names: str) -> None:
        """Kill programs, `up` for the supervisor and `run` for what runs flows, without asking any."""
        state = self.state.read()
        for name in names:
            if name == "run":
                victims = [one for one in marked(self.state.root) if one.runs_flow()]
            else:
                victims = [state.supervisor if name == "up" else state.services[name].process]
            for victim in victims:
                assert victim is not None
                victim.send(signal.SIGKILL)

    def trains(self, id_: str) -> bool:
        """Say whether a run is in its training, a checkpoint behind it."""
        return self.run(id_)["state_name"] == "Running" and any((self.folder / "work").glob("stages/train/*.work/**/*"))


def until(what: str, holds: Callable[[], object], seconds: float = 6 * MINUTES) -> None:
    """Wait until something holds, and print how long it took."""
    begin = time.monotonic()
    while not holds():
        assert time.monotonic() - begin < seconds, f"{what}: not after {seconds:.0f} s"
        time.sleep(1.0)
    print(f"{what}: after {time.monotonic() - begin:.0f} s")


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    one = Home(tmp_path / "home")
    yield one
    one.reglage("down")
    assert marked(one.state.root) == []


def test_from_nothing_to_a_published_version_then_killed_again_and_again(home: Home):
    begin = time.monotonic()
    assert home.up(home.recipe)["up"]
    print(f"up: after {time.monotonic() - begin:.0f} s")
    code, out, _ = home.reglage("up")
    assert (code, out.splitlines()[0].startswith("up already: ")) == (0, True)
    assert {deployment["name"] for deployment in home.call("/deployments/filter", {})} >= {"finetune", "tiny-router"}

    short = home.train(epochs=1)
    until("a run is published", lambda: home.run(short)["state_type"] == "COMPLETED")
    assert list((home.folder / ".reglage" / "tensorboard").rglob("events.out.*"))

    long = home.train(epochs=3000)
    until("it trains", lambda: home.trains(long))
    home.kill("server")
    until("the server is back", lambda: home.status()["services"]["server"]["restarts"] == 1 and home.status()["up"])
    home.kill("worker")
    until("the worker is back", lambda: home.status()["services"]["worker"]["restarts"] == 1 and home.status()["up"])
    time.sleep(5)
    assert home.run(long)["state_name"] == "Running"  # neither has ended it
    assert home.run(long)["run_count"] == 1

    home.kill("run", "worker")
    until("a run that was killed with its worker has crashed", lambda: home.run(long)["state_type"] == "CRASHED")
    until("and goes on by itself", lambda: home.run(long)["state_name"] == "Running")
    assert home.run(long)["run_count"] == 2

    home.kill("up", "server", "worker", "tensorboard", "run")
    assert home.status()["phase"] == "killed"
    begin = time.monotonic()
    home.up()
    print(f"up again: after {time.monotonic() - begin:.0f} s")
    assert home.run(long)["state_type"] in ("CRASHED", "SCHEDULED", "PENDING", "RUNNING")
    until("killed with everything, it goes on by itself", lambda: home.run(long)["run_count"] == 3)
    until("it trains once more", lambda: home.run(long)["state_name"] == "Running")

    begin = time.monotonic()
    assert home.reglage("down")[0] == 0
    print(f"down: after {time.monotonic() - begin:.0f} s")
    assert marked(home.state.root) == []
    assert home.reglage("status")[0] == 1
    home.up()
    until("stopped with everything, it goes on", lambda: home.run(long)["run_count"] == 4)


def test_a_supervisor_that_was_killed_leaves_what_runs_and_the_next_takes_it_over(home: Home):
    before = home.up()["services"]
    home.kill("up")
    after = home.up()["services"]
    assert {name: one["pid"] for name, one in after.items()} == {name: one["pid"] for name, one in before.items()}
    other = home.up("--database", "sqlite")  # nothing else is wanted: it is up already
    assert other["services"]["server"]["pid"] == before["server"]["pid"]


def programs_of(home: Home) -> list[str]:
    """Return which of the programs run, one that runs twice twice."""
    words = {"deployments.machine.server": "server", "worker": "worker", "tensorboard.main": "tensorboard"}
    found: list[str] = []
    for one in marked(home.state.root):
        line = Path(f"/proc/{one.pid}/cmdline").read_text().split("\0")
        found += [name for word, name in words.items() if word in line[:6]]
    return sorted(found)


def test_taken_over_for_another_pool_one_worker_serves_that(home: Home):
    before = home.up()["services"]
    run = home.train(epochs=3000)
    until("it trains", lambda: home.trains(run))
    home.kill("up")
    environment = home.folder / "other.yaml"
    environment.write_text(f"pool: {{name: other}}\nhome: {home.folder}\n")
    after = home.up("--env", environment)["services"]
    assert after["server"]["pid"] == before["server"]["pid"]
    assert after["worker"]["pid"] != before["worker"]["pid"]
    assert programs_of(home) == ["server", "tensorboard", "worker"]
    assert [one["status"] for one in home.call("/work_pools/other/workers/filter", {})] == ["ONLINE"]
    assert any(one.runs_flow() for one in marked(home.state.root))
    assert (home.run(run)["state_name"], home.run(run)["run_count"]) == ("Running", 1)


@pytest.mark.skipif(postgres.programs() is None, reason="no PostgreSQL here: `make postgres`")
def test_taken_over_with_another_database_no_second_worker_runs(home: Home):
    with postgres.server() as database:
        before = home.up()["services"]
        home.kill("up")
        url = f"postgresql://{postgres.USER}:{database.password}@127.0.0.1:{database.port}/postgres"
        after = home.up(REGLAGE_DATABASE=url)["services"]
        assert programs_of(home) == ["server", "tensorboard", "worker"]
        assert after["tensorboard"]["pid"] == before["tensorboard"]["pid"]
        assert [one["status"] for one in home.call("/work_pools/reglage/workers/filter", {})] == ["ONLINE"]
        assert home.reglage("down")[0] == 0


def test_two_at_once_in_one_home_and_in_two(tmp_path: Path):
    one, two = Home(tmp_path / "one"), Home(tmp_path / "two")
    try:
        children = [one.start("up", "--detach", "--json"), one.start("up", "--detach", "--json")]
        children.append(two.start("up", "--detach", "--json"))
        told = [child.communicate(timeout=10 * MINUTES) for child in children]
        assert [child.returncode for child in children] == [0, 0, 0], told
        first, again, beside = (json.loads(out) for out, _ in told)
        assert first["pid"] == again["pid"] != beside["pid"]
        assert len({first["url"], beside["url"]}) == 2
        port = first["url"].rpartition(":")[2]
        three = Home(tmp_path / "three")
        code, _, err = three.reglage("up", "--port", port)
        assert code == 7
        assert f"{port} is held by process {first['services']['server']['pid']}" in err or "is held by" in err
        assert marked(three.state.root) == []
    finally:
        for home in (one, two):
            assert home.reglage("down")[0] == 0
            assert marked(home.state.root) == []


@pytest.mark.skipif(postgres.programs() is None, reason="no PostgreSQL here: `make postgres`")
def test_postgresql_behind_it_and_its_password_nowhere_else(home: Home):
    with postgres.server() as database:
        url = f"postgresql://{postgres.USER}:{database.password}@127.0.0.1:{database.port}/postgres"
        home.up(REGLAGE_DATABASE=url)
        run = home.train(epochs=1)
        until("a run is published", lambda: home.run(run)["state_type"] == "COMPLETED")
        files = [path for path in home.state.root.rglob("*") if path.is_file()]
        assert [path.name for path in files if database.password.encode() in path.read_bytes()] == ["state.json"]
        server = home.state.read().services["server"].process
        assert server is not None
        for one in marked(home.state.root):
            holds = database.password.encode() in Path(f"/proc/{one.pid}/environ").read_bytes()
            assert holds == (one.pid == server.pid)
        assert home.reglage("down")[0] == 0
        assert home.up()["database"].startswith("postgresql+asyncpg://***@")  # remembered
        assert home.run(run)["state_type"] == "COMPLETED"
        assert home.reglage("down")[0] == 0
    code, _, err = home.reglage("up")
    assert (code, err.count("\n")) == (6, 1)
    assert "start it, or correct the URL" in err
    assert database.password not in err


def test_ctrl_c_ends_everything_and_says_so(home: Home):
    child = home.start("up")
    until("it is up", lambda: home.state.read().phase == "up")
    child.send_signal(signal.SIGINT)
    out, _ = child.communicate(timeout=3 * MINUTES)
    assert child.returncode == 0
    assert out.splitlines()[-1] == "down"
    assert marked(home.state.root) == []
    assert process(child.pid) is None
