"""Processes are known by more than their number: by when they started, and by what they belong to."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployments.machine.processes import FLOW_RUN, MARK, Process, end, holder, listens, marked, process, running_flows

SLEEP = ("import time; time.sleep(60)",)
STUBBORN = ("import signal, sys, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(60)",)


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[bytes]]]:
    running: list[subprocess.Popen[bytes]] = []
    yield running
    for one in running:
        one.kill()
        one.wait()


def start(running: list[subprocess.Popen[bytes]], script: str, **variables: str) -> Process:
    running.append(
        subprocess.Popen([sys.executable, "-S", "-c", script], env={**os.environ, **variables}, stdout=subprocess.PIPE)
    )
    found = process(running[-1].pid)
    assert found is not None
    return found


def test_a_number_that_another_process_has_now_is_not_the_process(started):
    one = start(started, *SLEEP)
    assert one.lives()
    other = one.model_copy(update={"ticks": one.ticks - 1})  # the kernel gave the number to a later one
    before_boot = one.model_copy(update={"boot": "another"})
    for gone in (other, before_boot):
        assert not gone.lives()
        gone.send(signal.SIGKILL)
        assert gone.wait(0.0)
    assert one.lives()


def test_a_zombie_does_not_live_and_is_not_waited_for(started):
    one = start(started, "")
    deadline = time.monotonic() + 10
    while one.lives() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert Path(f"/proc/{one.pid}").exists()  # nobody has asked for its exit code
    assert not one.lives()
    assert one.wait(0.0)


def test_what_does_not_end_when_asked_is_ended(started):
    willing, stubborn = start(started, *SLEEP), start(started, *STUBBORN)
    stream = started[-1].stdout
    assert stream is not None
    stream.readline()  # from now on it ignores SIGTERM
    assert end([willing, stubborn], 0.5) == [stubborn]
    assert not willing.lives()
    assert not stubborn.lives()


def test_children_belong_to_the_folder_too_and_runs_are_found_by_their_id(started, tmp_path):
    mine = {MARK: str(tmp_path / "mine")}
    parent = start(
        started,
        "import subprocess, sys; p = subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(60)'])\n"
        "print(p.pid, flush=True); p.wait()",
        **mine,
    )
    stream = started[-1].stdout
    assert stream is not None
    child = int(stream.readline())
    run = start(started, *SLEEP, **mine, **{FLOW_RUN: "run-1"})
    start(started, *SLEEP, **{MARK: str(tmp_path / "mine" / "deeper")})  # another's, whose name begins alike
    deadline = time.monotonic() + 5
    while len(found := marked(tmp_path / "mine")) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert {one.pid for one in found} == {parent.pid, child, run.pid}
    assert [one.pid for one in found if one.descends_from({parent.pid})] == [child]
    assert [one.pid for one in found if one.runs_flow()] == [run.pid]
    assert [one.pid for one in running_flows()["run-1"]] == [run.pid]
    end(found, 5.0)
    assert marked(tmp_path / "mine") == []


def test_who_holds_a_port_is_named_and_whom_it_lets_in():
    with socket.create_server(("127.0.0.1", 0)) as loopback, socket.create_server(("0.0.0.0", 0)) as everyone:
        port, open_port = loopback.getsockname()[1], everyone.getsockname()[1]
        assert holder(port).startswith(f"process {os.getpid()} (")
        assert holder(port).endswith("on 127.0.0.1")
        assert {(os.getpid(), "127.0.0.1", port), (os.getpid(), "0.0.0.0", open_port)} <= set(listens([os.getpid()]))
    assert "another user's" in holder(port)
