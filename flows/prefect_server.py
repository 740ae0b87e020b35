"""A Prefect server that lives as long as one `reglage run`, where the user has none.

Prefect's own ephemeral server starts when the first flow is called, after the calling process has imported the whole
server a second time: 13 s on two cores. This one starts before anything else is imported and is ready when the flow
is. It keeps its database in the user's cache folder, so that only the first start ever pays for its migrations
(10 s; `make` does that while it installs) and earlier runs stay visible.
"""

import atexit
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from importlib.metadata import version
from pathlib import Path

from ftlib.errors import StorageError
from ftlib.storage.files import local_errors, private_folder
from ftlib.workspace import exclusive, make_cache, user_cache

START_TIMEOUT = 120.0
"""Seconds; a cold disk and a busy machine have been seen to need 40."""
STOP_TIMEOUT = 3.0


class TemporaryServer:
    """A server process on a free port of this machine's loopback. It ends with this process, however this one ends."""

    def __init__(self, log: Path) -> None:
        self.home, self.log = server_home(), log
        make_cache(self.home)
        # Two servers that migrate one new database at once would trip over each other.
        self._starting = contextlib.ExitStack()
        self._starting.enter_context(exclusive(self.home / "start.lock", wait=True))
        with local_errors(log):
            private_folder(log.parent)
            stream = log.open("ab")
        with socket.create_server(("127.0.0.1", 0), backlog=128) as listening, stream:
            self.url = f"http://127.0.0.1:{listening.getsockname()[1]}/api"
            self._process = subprocess.Popen(
                [sys.executable, "-m", "flows.prefect_server", str(listening.fileno())],
                pass_fds=[listening.fileno()],  # it listens already: who connects too early waits, and no port is lost
                stdin=subprocess.PIPE,
                stdout=stream,
                stderr=stream,
                env={**os.environ, **self._settings(), "PREFECT_UI_ENABLED": "0"},
                start_new_session=True,  # Ctrl-C goes to the whole group; this one must outlive the flow's last words
            )
        # Registered before prefect is imported, so it runs after Prefect has sent its last events.
        atexit.register(self.stop)

    def use(self) -> None:
        """Make Prefect in this process talk to this server; call it before prefect is imported."""
        os.environ.update(self._settings(), PREFECT_API_URL=self.url)

    def wait(self) -> None:
        """Wait until the server answers. Raises StorageError, naming its log, if it does not."""
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=max(deadline - time.monotonic(), 1.0)):
                    return self._starting.close()
            except (urllib.error.URLError, OSError) as error:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise StorageError(
                        f"the temporary Prefect server did not start ({error}); see {self.log}, or start one with "
                        f"`prefect server start` and set PREFECT_API_URL"
                    ) from None
                time.sleep(0.1)

    def stop(self) -> None:
        """End the server and wait until it is gone."""
        self._starting.close()
        if self._process.stdin:
            self._process.stdin.close()
        try:
            self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()  # SQLite's journal makes that safe
            self._process.wait()

    def _settings(self) -> dict[str, str]:
        return {
            "PREFECT_HOME": str(self.home),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
        }


def server_home() -> Path:
    """Return the temporary servers' PREFECT_HOME: one for each version of Prefect, in the user's cache folder."""
    return user_cache() / f"prefect-{version('prefect')}"


def is_temporary() -> bool:
    """Say whether Prefect in this process talks to a temporary server."""
    return os.environ.get("PREFECT_HOME") == str(server_home())


def user_has_server() -> bool:
    """Say whether the user's environment or Prefect profile names a server; their settings are then left alone."""
    if os.environ.get("PREFECT_API_URL"):
        return True
    home = Path(os.environ.get("PREFECT_HOME", "~/.prefect")).expanduser()
    if not any(file.is_file() for file in (home / "profiles.toml", Path("prefect.toml"), Path(".env"))):
        return False  # the usual case, answered without importing prefect
    from prefect.settings import get_current_settings

    return bool(get_current_settings().api.url)


def _serve(descriptor: int) -> None:
    os.environ.update(PREFECT__SERVER_EPHEMERAL="1", PREFECT__SERVER_FINAL="1")  # as Prefect's own ephemeral server
    os.environ.pop("PREFECT_API_URL", None)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import uvicorn
    from prefect.server.api.server import create_app

    server = uvicorn.Server(uvicorn.Config(create_app(), log_level="error", lifespan="on", timeout_graceful_shutdown=1))
    server.run(sockets=[socket.socket(fileno=descriptor)])


def _end_with_parent() -> None:
    """End when the pipe from the parent closes, which the kernel does even on kill -9."""
    with contextlib.suppress(OSError):
        sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(STOP_TIMEOUT)
    os._exit(0)


def _prepare() -> None:
    """Make the database now, so that the first run need not."""
    server = TemporaryServer(server_home() / "prepare.log")
    server.wait()


if __name__ == "__main__":
    _serve(int(sys.argv[1])) if len(sys.argv) > 1 else _prepare()
