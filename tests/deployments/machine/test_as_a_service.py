"""The unit under systemd itself: a user's manager in a mount namespace of its own, where `/run` says that it booted."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployments.machine.processes import marked
from deployments.machine.state import StateFolder

MANAGER = Path("/lib/systemd/systemd")
RUN = """
mount -t tmpfs none /run && mkdir -p /run/systemd/system /run/user/0 || exit 99
exec "$0" "$@"
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.prefect,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(os.geteuid() != 0 or not MANAGER.exists() or not shutil.which("unshare"), reason="no systemd"),
]


class Booted:
    """A user's systemd, and what one tells it."""

    def __init__(self, folder: Path, manager: subprocess.Popen[bytes]) -> None:
        self.folder, self.manager = folder, manager

    def systemctl(self, *words: str) -> str:
        inside = ["nsenter", f"--mount=/proc/{self.manager.pid}/ns/mnt", "systemctl", "--user", *words]
        done = subprocess.run(inside, env=environment(self.folder), capture_output=True, text=True, timeout=700)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def value(self, name: str) -> str:
        return self.systemctl("show", "reglage", "--property", name, "--value")


def environment(folder: Path) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": str(folder / "user"), "XDG_RUNTIME_DIR": "/run/user/0"}


@pytest.fixture
def booted(tmp_path: Path) -> Iterator[Booted]:
    (tmp_path / "user").mkdir()
    (tmp_path / "home").mkdir()
    command = ["unshare", "--mount", "--propagation", "private", "bash", "-c", RUN, str(MANAGER), "--user"]
    with (tmp_path / "log").open("wb") as log:
        manager = subprocess.Popen(command, env=environment(tmp_path), stdout=log, stderr=log)
    one = Booted(tmp_path, manager)
    time.sleep(3)
    if manager.poll() is not None:
        pytest.skip(f"systemd does not start here: {(tmp_path / 'log').read_text()[-500:]}")
    yield one
    manager.terminate()
    manager.wait(200)
    assert marked(StateFolder(tmp_path / "home").root) == []


def test_systemd_hears_when_it_is_up_starts_it_again_and_ends_all_of_it(booted: Booted, tmp_path: Path) -> None:
    home, state = tmp_path / "home", StateFolder(tmp_path / "home")
    unit = tmp_path / "user" / ".config" / "systemd" / "user" / "reglage.service"
    command = [sys.executable, "-P", "-m", "ftlib", "up", "--systemd", str(unit), "--home", str(home)]
    subprocess.run(command, check=True, env=environment(tmp_path), timeout=120)
    booted.systemctl("daemon-reload")
    booted.systemctl("enable", "--now", "reglage")  # returns once it says that it is ready
    assert (booted.value("ActiveState"), state.read().phase) == ("active", "up")
    first = {one.pid for one in marked(state.root)}
    supervisor = state.read().supervisor
    assert supervisor is not None
    assert int(booted.value("MainPID")) == supervisor.pid
    assert len(first) >= 2  # server and worker

    booted.systemctl("kill", "--kill-whom=main", "--signal=KILL", "reglage")
    deadline = time.monotonic() + 600
    while booted.value("NRestarts") == "0" or booted.value("ActiveState") != "active":
        assert time.monotonic() < deadline, booted.systemctl("status", "reglage")
        time.sleep(1)
    assert state.read().phase == "up"
    assert first.isdisjoint({one.pid for one in marked(state.root)})  # what was left of the first is gone as well

    booted.systemctl("stop", "reglage")
    assert (booted.value("ActiveState"), booted.value("Result")) == ("inactive", "success")
    assert marked(state.root) == []
