"""What is taken over from a `reglage up` that was killed, and what is not: programs that only sleep stand for it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from deployments.machine import programs
from deployments.machine.processes import FLOW_RUN, MARK, process
from deployments.machine.state import State, StateFolder
from deployments.machine.supervisor import BOARD, SERVER, WORKER, Supervisor

Left = dict[str, "subprocess.Popen[bytes]"]
PORT, BOARD_PORT = 18211, 18212
URL, BOARD_URL = f"http://127.0.0.1:{PORT}", f"http://127.0.0.1:{BOARD_PORT}"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StateFolder:
    monkeypatch.setattr(programs, "find_spec", lambda _: True)
    folder = StateFolder(tmp_path)
    folder.make()
    return folder


@pytest.fixture
def left(folder: StateFolder) -> Iterator[Left]:
    """What a killed `up` left: its three programs, as it started them, and a run."""
    sleep = [sys.executable, "-S", "-c", "import time; time.sleep(60)"]
    mark = {**os.environ, MARK: str(folder.root)}
    left = {name: subprocess.Popen(sleep, env=mark) for name in (SERVER, WORKER, BOARD)}
    left["run"] = subprocess.Popen(sleep, env={**mark, FLOW_RUN: "1"})
    board = programs.tensorboard(folder, BOARD_PORT)
    assert board is not None
    state = State(port=PORT, tensorboard_port=BOARD_PORT)
    for name, program in {
        SERVER: programs.server(folder, PORT, None),
        WORKER: programs.worker(folder, URL, "reglage", BOARD_URL),
        BOARD: board,
    }.items():
        state = state.with_service(name, process=process(left[name].pid), settings=program.digest())
    folder.write(state)
    yield left
    for one in left.values():
        one.kill()
        one.wait()


@pytest.fixture
def taken_over(folder: StateFolder, left: Left) -> Iterator[Callable[[str | None], Supervisor]]:
    """The next `up` with a database, once it has looked at what is there."""
    with ExitStack() as held:

        def begun(database: str | None) -> Supervisor:
            after = Supervisor(folder, lambda _: None, database=database)
            after.state = folder.read()
            after._take_port()
            held.callback(lambda: after._socket and after._socket.close())
            after._plan()
            after._leftovers()
            return after

        yield begun


def keeps(supervisor: Supervisor, left: Left) -> set[str]:
    return {name for name, child in supervisor._children.items() if child.lives() and child.pid == left[name].pid}


def ended(left: Left) -> set[str]:
    return {name for name, one in left.items() if one.poll() is not None}


def test_with_the_same_wishes_everything_is_taken_over(taken_over, left: Left):
    after = taken_over(None)
    after._settle_worker()
    assert keeps(after, left) == {SERVER, WORKER, BOARD}
    assert ended(left) == set()


def test_with_another_database_no_worker_of_the_old_one_is_left(taken_over, left: Left):
    after = taken_over("postgresql+asyncpg://h/n")
    after._settle_worker()
    assert keeps(after, left) == {BOARD}  # else a second TensorBoard would be started beside it
    assert ended(left) == {SERVER, WORKER}
    assert left[WORKER].returncode == -9  # asked to end, it would kill the run


def test_with_another_database_a_worker_whose_server_died_is_not_taken_over(taken_over, left: Left):
    left[SERVER].kill()
    left[SERVER].wait()
    after = taken_over("postgresql+asyncpg://h/n")
    assert keeps(after, left) == {BOARD}
    assert ended(left) == {SERVER, WORKER}


def test_a_worker_of_another_pool_is_ended_and_its_runs_go_on(folder: StateFolder, taken_over, left: Left):
    after = taken_over(None)
    after.state = after.state.model_copy(update={"pool": "production"})  # as the deployments' setup says
    after._settle_worker()
    assert keeps(after, left) == {SERVER, BOARD}
    assert ended(left) == {WORKER}
    assert left[WORKER].returncode == -9
    assert "production" in after._children[WORKER].program.command
    assert folder.read().services[WORKER].process is None
