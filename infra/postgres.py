"""A PostgreSQL server on loopback for tests, in a folder of its own.

    python infra/postgres.py pytest tests/ftlib/data/sources/test_sql_postgres.py    # beside it

The command finds PGHOST, PGPORT, PGUSER and PGPASSWORD in its environment. Nothing is installed here (`make postgres`
does), nothing listens beyond loopback, and the server is ended by its own process id.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

USER = "tester"
START_SECONDS = 60.0
SETTINGS = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "off", "max_connections": "20"}


@dataclass(frozen=True)
class Server:
    """How to reach a running server."""

    port: int
    password: str

    @property
    def uri(self) -> str:
        """Return its URI, without the password."""
        return f"postgresql://127.0.0.1:{self.port}/postgres?user={USER}"

    def environment(self) -> dict[str, str]:
        """Return what every client of PostgreSQL reads."""
        return {"PGHOST": "127.0.0.1", "PGPORT": str(self.port), "PGUSER": USER, "PGPASSWORD": self.password}


def programs() -> Path | None:
    """Return the folder of initdb and postgres, the newest there is; None where there is none."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if versions:
        return versions[-1].parent
    found = shutil.which("initdb")
    return Path(found).resolve().parent if found and shutil.which("postgres") else None


@contextmanager
def server() -> Generator[Server]:
    """Run a server with an empty database while the block runs. Raises RuntimeError where it does not come up."""
    binaries = programs()
    if binaries is None:
        raise RuntimeError("no PostgreSQL here; install it with `make postgres`")
    with tempfile.TemporaryDirectory(prefix="reglage-postgres-") as name:
        folder, started = Path(name), Server(_free_port(), secrets.token_hex(8))
        (folder / "password").write_text(started.password)
        account = _account()
        if account:  # PostgreSQL refuses to run as root
            for path in (folder, folder / "password"):
                os.chown(path, account.pw_uid, account.pw_gid)
        as_user = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []} if account else {}
        initdb = [binaries / "initdb", "-D", folder / "data", "-U", USER, "--auth", "scram-sha-256"]
        initdb += ["--pwfile", folder / "password", "--encoding", "UTF8", "--locale", "C.UTF-8", "--no-sync"]
        subprocess.run(initdb, check=True, cwd=folder, stdout=subprocess.DEVNULL, **as_user)
        settings = [word for key, value in SETTINGS.items() for word in ("-c", f"{key}={value}")]
        command = [binaries / "postgres", "-D", folder / "data", "-p", str(started.port), *settings]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, **as_user)
        try:
            _wait(process, started.port, folder / "log")
            yield started
        finally:
            process.send_signal(signal.SIGINT)  # ends the sessions, too
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _account() -> pwd.struct_passwd | None:
    return pwd.getpwnam("postgres") if os.geteuid() == 0 else None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            if b"ready to accept" in log.read_bytes():
                return
    raise RuntimeError(f"PostgreSQL did not come up: {log.read_text(errors='replace')[-2000:]}")


def main(command: Sequence[str]) -> int:
    """Run a command beside a server; without one, until Ctrl-C."""
    with server() as started:
        environment = started.environment()
        print(" ".join(f"{key}={value}" for key, value in environment.items() if key != "PGPASSWORD"), flush=True)
        if not command:
            print(f"PGPASSWORD={started.password}", flush=True)
            signal.pause()
        return subprocess.run(command, env={**os.environ, **environment}).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
