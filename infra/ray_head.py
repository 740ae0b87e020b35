"""A Ray head of its own on the loopback, for tests and benchmarks that give jobs to a cluster."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

_START_SECONDS = 120.0


@contextmanager
def ray_head(cpus: int = 2) -> Generator[str]:
    """Start a head that asks nobody for a token; give its dashboard's address, which is where jobs go.

    `RAY_AUTH_MODE` of this process says so too until it ends. Raises TimeoutError where it does not start.
    """
    from ray.job_submission import JobSubmissionClient

    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # Ray's sockets need a short path
    dashboard, port, agent = _free_ports(3)
    binaries = Path(sys.executable).parent
    before = os.environ.get("RAY_AUTH_MODE")
    os.environ["RAY_AUTH_MODE"] = "disabled"
    command = [str(binaries / "ray"), "start", "--head", "--block", f"--port={port}", f"--num-cpus={cpus}"]
    command += [f"--dashboard-port={dashboard}", "--dashboard-host=127.0.0.1", "--node-ip-address=127.0.0.1"]
    # Every Ray of a machine wants the agent's default port, and a head without an agent takes no jobs.
    command += [f"--dashboard-agent-listen-port={agent}", f"--temp-dir={folder}", "--disable-usage-stats"]
    environment = {**os.environ, "PATH": f"{binaries}:{os.environ['PATH']}"}
    head = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, start_new_session=True)
    address = f"http://127.0.0.1:{dashboard}"
    try:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                JobSubmissionClient(address).list_jobs()
                break
            except (ConnectionError, RuntimeError):
                if time.monotonic() > deadline:
                    raise TimeoutError(f"no Ray answers at {address} after {_START_SECONDS:g} s") from None
                time.sleep(1)
        yield address
    finally:
        os.killpg(head.pid, signal.SIGTERM)
        head.wait(60)
        if before is None:
            del os.environ["RAY_AUTH_MODE"]
        else:
            os.environ["RAY_AUTH_MODE"] = before
        shutil.rmtree(folder, ignore_errors=True)


def _free_ports(count: int) -> list[int]:
    """Return ports that nobody listens at, all different."""
    servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [server.getsockname()[1] for server in servers]
    finally:
        for server in servers:
            server.close()
