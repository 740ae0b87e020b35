"""What is known of an installation, in one private folder below Réglage's home: `<home>/.reglage`.

state.json        who runs where, since when; written whole or not at all, after every change
up.lock           held while `reglage up` runs; the kernel frees it on kill -9
logs/             what server, worker, TensorBoard and a detached `up` print
prefect/          PREFECT_HOME: the SQLite database, leases, the key that encrypts blocks
tensorboard/      the curves of deployed runs
secrets.env       written by a person: variables that the systemd unit gives to all of it
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from deployments.machine.ports import HOST
from deployments.machine.processes import Process
from ftlib.config import Config
from ftlib.errors import StorageError
from ftlib.storage.files import in_bytes, local_errors, private_folder
from ftlib.urls import redacted
from ftlib.workspace import write_durably

FOLDER = ".reglage"
ELSEWHERE = "choose another --home"

LEAST_BYTES = 50_000_000
"""Free disk below which nothing is started: a new database, logs and leases."""

Phase = Literal["starting", "up", "stopping", "down"]


class Service(Config):
    """One of the programs of an installation."""

    process: Process | None = None
    """Who runs it; None while it does not run."""
    settings: str = ""
    """A digest of what it was started with: one that runs with other settings is not taken over."""
    restarts: int = 0
    """How often it died and was started again since `up`."""
    url: str | None = None
    """Where people look at it."""
    note: str = ""
    """Why it does not run, or what became of it last."""


class State(Config):
    """An installation, as `reglage up` left it at its last change."""

    format: Literal[1] = 1
    phase: Phase = "down"
    since: str = ""
    """When the phase began."""
    supervisor: Process | None = None
    """The process of `reglage up`."""
    port: int | None = None
    """The port of Prefect's server."""
    tensorboard_port: int | None = None
    database: str | None = None
    """PostgreSQL's URL, with what lets one in; None for SQLite in the state folder."""
    environment: str | None = None
    """The environment whose deployments these are: a file or a name; None for the one of Réglage's home."""
    pool: str = "reglage"
    """The work pool that the worker serves."""
    services: dict[str, Service] = {}
    """`server`, `worker`, `tensorboard`."""

    @property
    def url(self) -> str | None:
        """Return where Prefect's pages are."""
        return f"http://{HOST}:{self.port}" if self.port else None

    def serves(self) -> bool:
        """Say whether `reglage up` runs."""
        return self.supervisor is not None and self.supervisor.lives()

    def with_service(self, name: str, **changes: object) -> State:
        """Return the state with a service changed."""
        service = self.services.get(name, Service()).model_copy(update=changes)
        return self.model_copy(update={"services": {**self.services, name: service}})

    def said_database(self) -> str:
        """Name the database without its secrets."""
        return redacted(self.database) if self.database else "SQLite"


class StateFolder:
    """The folder of one installation's state."""

    def __init__(self, home: Path) -> None:
        self.home = home.resolve()  # one home has one name, whatever leads there
        self.root = self.home / FOLDER
        self.prefect_home = self.root / "prefect"
        self.curves = self.root / "tensorboard"
        self.secrets = self.root / "secrets.env"
        self.lock = self.root / "up.lock"
        self._file = self.root / "state.json"

    def make(self) -> None:
        """Make it, for this user alone, whoever else may look into Réglage's home. Raises StorageError."""
        with local_errors(self.root, elsewhere=ELSEWHERE):
            for folder in (self.root, self.root / "logs", self.prefect_home, self.curves):
                private_folder(folder)
                if folder.stat().st_mode & 0o077:
                    folder.chmod(0o700)  # it holds the database's password, and what runs logged
            ignored = self.root / ".gitignore"
            if not ignored.exists():
                write_durably(ignored, b"*\n")  # the home may be a repository, and no secret belongs into one

    def check_space(self) -> None:
        """Raise StorageError where a server could not even make its database: it would end without a word."""
        with local_errors(self.root, elsewhere=ELSEWHERE):
            free = shutil.disk_usage(self.root).free
        if free < LEAST_BYTES:
            raise StorageError(
                f"{self.root}: {in_bytes(free)} are free, at least {in_bytes(LEAST_BYTES)} are needed; free space "
                f"there or {ELSEWHERE}"
            )

    def log(self, name: str) -> Path:
        """Return where a service's output goes."""
        return self.root / "logs" / f"{name}.log"

    def read(self) -> State:
        """Return the state; a fresh one where none was written. Raises StorageError for what cannot be read."""
        with local_errors(self._file, elsewhere=ELSEWHERE):
            try:
                text = self._file.read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                return State()
        try:
            return State.model_validate_json(text)
        except ValidationError as error:
            raise StorageError(
                f"{self._file} is no state of this version ({error.errors()[0]['msg']}); stop what runs by its process "
                f"id, then delete the file"
            ) from None

    def write(self, state: State) -> None:
        """Write the state, whole or not at all, for this user alone. Raises StorageError."""
        write_durably(self._file, state.model_dump_json(indent=1).encode() + b"\n")
        with contextlib.suppress(OSError):
            os.chmod(self._file, 0o600)
