"""The programs of an installation: their command lines and the settings they run with."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
from collections.abc import Mapping
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import ftlib
from deployments.heartbeat import HEARTBEAT, heartbeat
from deployments.machine.ports import HOST
from deployments.machine.processes import MARK
from deployments.machine.state import StateFolder
from ftlib.config import Config

_FOREIGN = (
    "PREFECT_API_URL",
    "PREFECT_API_KEY",
    "PREFECT_PROFILE",
    "PREFECT_API_DATABASE_CONNECTION_URL",
    "REGLAGE_DATABASE",
    "NOTIFY_SOCKET",
)
"""What is in the environment of `reglage up` and is none of its programs' business: another server, a password."""
QUERY = "PREFECT_WORKER_QUERY_SECONDS"
"""How often a worker looks for runs that are due."""
_GIVEN = (MARK, "PREFECT_HOME", "REGLAGE_HOME", "REGLAGE_ENVIRONMENT")
"""What `reglage up` sets itself, or is given by its arguments."""


class Program(Config):
    """A program to start."""

    command: tuple[str, ...]
    environment: dict[str, str]
    folder: str
    """Where it starts."""

    def digest(self) -> str:
        """Return what tells whether a process that runs was started just so, by the same versions."""
        versions = {"reglage": ftlib.__version__, "prefect": version("prefect"), "python": sys.version}
        kept = {
            name: value for name, value in self.environment.items() if name.startswith(("PREFECT", "REGLAGE", "PYTHON"))
        }
        text = json.dumps([self.command, kept, self.folder, versions], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def own_settings() -> dict[str, str]:
    """Return the settings of Prefect and Réglage in this process's environment that its programs would start with."""
    return {
        name: value
        for name, value in sorted(os.environ.items())
        if name.startswith(("PREFECT_", "REGLAGE_"))
        and not name.startswith("PREFECT__")  # what Prefect says to the processes of a run
        and name not in (*_FOREIGN, *_GIVEN)
    }


def worker_name(folder: StateFolder) -> str:
    """Return the worker's name in Prefect: of this machine and this home."""
    return f"{platform.node() or 'here'}-{hashlib.sha256(str(folder.home).encode()).hexdigest()[:8]}"


def server(folder: StateFolder, port: int, database: str | None) -> Program:
    """Return Prefect's server, which is started with a socket's descriptor in `SOCKET`."""
    settings = {
        "PREFECT_SERVER_API_HOST": HOST,
        "PREFECT_SERVER_API_PORT": str(port),
        # In memory, Prefect's default, a server that restarts forgets who holds a slot, and later runs wait for it.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        # Events and heartbeats grow without end otherwise.
        "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
        "PREFECT_SERVER_EVENTS_CAUSAL_ORDERING": "deployments.machine.event_order",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_API_URL": os.environ.get("PREFECT_SERVER_UI_API_URL", f"http://{HOST}:{port}/api"),
        "PREFECT_API_DATABASE_CONNECTION_URL": database or f"sqlite+aiosqlite:///{folder.prefect_home / 'prefect.db'}",
    }
    command = (sys.executable, "-P", "-m", "deployments.machine.server")
    return Program(command=command, environment=_environment(folder, settings), folder=str(folder.root))


def client_settings(folder: StateFolder, url: str) -> dict[str, str]:
    """Return the environment of a program that talks to the server."""
    settings = {"PREFECT_API_URL": f"{url}/api"}
    if auth := os.environ.get("PREFECT_SERVER_API_AUTH_STRING"):
        settings["PREFECT_API_AUTH_STRING"] = auth
    return _environment(folder, settings)


def worker(folder: StateFolder, url: str, pool: str, tensorboard_url: str | None) -> Program:
    """Return the worker of a pool, which starts each run as a process of its own."""
    # Prefect's own worker looks every 10 seconds: nobody should wait so long for what they started by hand.
    settings = {"REGLAGE_HOME": str(folder.home), QUERY: os.environ.get(QUERY, "2")}
    if tensorboard_url:
        settings |= {"REGLAGE_TENSORBOARD": str(folder.curves), "REGLAGE_TENSORBOARD_URL": tensorboard_url}
    words = ("worker", "start", "--pool", pool, "--type", "process", "--name", worker_name(folder))
    return Program(
        command=(sys.executable, "-P", "-m", "prefect", *words),
        environment=client_settings(folder, url) | settings,
        folder=str(folder.home),
    )


def tensorboard(folder: StateFolder, port: int) -> Program | None:
    """Return TensorBoard over the curves of deployed runs; None where it is not installed."""
    if find_spec("tensorboard") is None:
        return None
    words = ("--logdir", str(folder.curves), "--host", HOST, "--port", str(port), "--load_fast", "false")
    command = (sys.executable, "-P", "-m", "tensorboard.main", *words)
    return Program(command=command, environment=_environment(folder, {}), folder=str(folder.root))


def setup(folder: StateFolder, url: str, environment: str | None, recipes: tuple[Path, ...]) -> Program:
    """Return the program that brings pool, deployments, limits and automations up to date with an environment."""
    command = (sys.executable, "-P", "-m", "deployments.machine.setup", *map(str, recipes))
    settings = {"REGLAGE_HOME": str(folder.home)} | ({"REGLAGE_ENVIRONMENT": environment} if environment else {})
    return Program(command=command, environment=client_settings(folder, url) | settings, folder=str(folder.home))


def _environment(folder: StateFolder, settings: Mapping[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in _FOREIGN}
    return {
        **kept,
        MARK: str(folder.root),
        "PREFECT_HOME": str(folder.prefect_home),
        HEARTBEAT: str(heartbeat()),
        "DO_NOT_TRACK": "1",
        "PYTHONSAFEPATH": "1",  # a Prefect project's own folder `flows` is not to be taken for Réglage's
        **settings,
    }
