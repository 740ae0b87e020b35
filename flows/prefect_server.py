"""A Prefect server that lives as long as one `reglage run`, where the user has none.

Prefect's own ephemeral server starts when the first flow is called, after the calling process has imported the whole
server a second time: 13 s on two cores. This one starts before anything else is imported and is ready when the flow
is. It keeps its database in the user's cache folder, so that only the first start ever pays for its migrations
(10 s; `make` does that while it installs) and earlier runs stay visible.
"""

import atexit
import base64
import contextlib
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftlib.config import user_path
from ftlib.errors import StorageError, TransientError, first_line
from ftlib.storage.files import local_errors, private_folder
from ftlib.workspace import exclusive, make_cache, user_cache

if TYPE_CHECKING:
    import httpx
    from prefect.settings import Settings

START_TIMEOUT = 120.0
"""Seconds; a cold disk and a busy machine have been seen to need 40."""
STOP_TIMEOUT = 3.0
ANSWER_TIMEOUT = 10.0
"""Seconds a server of the user's may take to say that it is there."""

_CLOUD = "https://api.prefect.cloud"  # it has no /admin/version


class TemporaryServer:
    """A server process on a free port of this machine's loopback. It ends with this process, however this one ends."""

    def __init__(self, log: Path) -> None:
        """Start the server on a free port of the loopback; `wait` says when it answers."""
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
                # -P: a Prefect project's own folder `flows`, in the working folder, is not to be taken for ours.
                [sys.executable, "-P", "-m", "flows.prefect_server", str(listening.fileno())],
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
    """Say whether the user's environment or Prefect profile names a server; their settings are then left alone.

    Raises StorageError for settings that Prefect cannot read.
    """
    if os.environ.get("PREFECT_API_URL"):
        return True
    home = user_path(os.environ.get("PREFECT_HOME", "~/.prefect"))
    if not any(file.is_file() for file in (home / "profiles.toml", Path("prefect.toml"), Path(".env"))):
        return False  # the usual case, answered without importing prefect
    return bool(settings().api.url)


def settings() -> "Settings":
    """Read Prefect's settings. Raises StorageError for those of a variable or profile that Prefect refuses."""
    from pydantic import ValidationError

    try:
        from prefect.settings import get_current_settings

        return get_current_settings()
    except (ValueError, OSError) as error:  # tomllib's errors are ValueErrors too
        told = (
            [f"{'.'.join(map(str, e['loc']))} {e['msg']}".strip() for e in error.errors()]
            if isinstance(error, ValidationError)
            else [first_line(error)[:200]]
        )
        raise StorageError(
            f"Prefect's settings are not usable: {'; '.join(told)}; correct the PREFECT_* variables, or the profile in "
            f"{os.environ.get('PREFECT_HOME', '~/.prefect')}"
        ) from error


def check_user_server() -> str:
    """Ask the user's Prefect server whether it is there, lets us in and is of our version; return its URL.

    Raises TransientError if nobody answers in time, StorageError for any other answer than a Prefect server's. Each
    names the variable, the URL without its secrets, and the remedy.
    """
    import httpx

    api = settings().api
    named = "PREFECT_API_URL" if os.environ.get("PREFECT_API_URL") else "PREFECT_API_URL of the Prefect profile"
    undo = "unset it" if os.environ.get("PREFECT_API_URL") else "run `prefect config unset PREFECT_API_URL`"
    url = str(api.url).rstrip("/")
    described = f"{named} is {without_secrets(url)}"
    remedy = f"correct it, or {undo}: then each run has a server of its own"
    try:
        with _client(url) as client:
            health = _asked(client.get("/health"), described, remedy)
            if health is not True:
                raise StorageError(f"{described}, where no Prefect server answers (/health is no `true`); {remedy}")
            if not url.startswith(_CLOUD):
                theirs = str(_asked(client.get("/admin/version"), described, remedy))
                if theirs.partition(".")[0] != version("prefect").partition(".")[0]:
                    raise StorageError(
                        f"{described}, whose Prefect is {theirs}, and this one's is {version('prefect')}: the first "
                        f"number must be the same; use such a server, or {undo}"
                    )
    except (httpx.InvalidURL, httpx.UnsupportedProtocol, ValueError) as error:
        raise StorageError(f"{described}, which is no URL of a server ({first_line(error)[:200]}); {remedy}") from error
    except httpx.HTTPError as error:
        if "CERTIFICATE" in str(error) or "SSL" in str(error):
            raise StorageError(
                f"{described}, whose TLS fails ({first_line(error)[:200]}); set PREFECT_API_SSL_CERT_FILE to its "
                f"authority's certificate, {remedy}"
            ) from error
        trouble = f"does not answer within {ANSWER_TIMEOUT:.0f} s" if isinstance(error, httpx.TimeoutException) else ""
        raise TransientError(
            f"{described}, which {trouble or f'cannot be reached ({first_line(error)[:200]})'}; start it, {remedy}"
        ) from error
    return without_secrets(url)


def _client(url: str) -> "httpx.Client":
    """Return a client that Prefect's settings let in; Prefect's own tries for a minute before it says anything."""
    import certifi
    import httpx

    prefect = settings()
    api, headers = prefect.api, dict(prefect.client.custom_headers)
    if api.auth_string:
        headers["Authorization"] = "Basic " + base64.b64encode(api.auth_string.get_secret_value().encode()).decode()
    elif api.key:
        headers["Authorization"] = f"Bearer {api.key.get_secret_value()}"
    verify: Any = False
    if not api.tls_insecure_skip_verify:
        verify = ssl.create_default_context(cafile=api.ssl_cert_file or certifi.where())
    return httpx.Client(base_url=url, headers=headers, verify=verify, timeout=ANSWER_TIMEOUT, follow_redirects=True)


def _asked(answer: "httpx.Response", where: str, otherwise: str) -> object:
    """Return what a server said, as JSON. Raises StorageError for a refusal or something else than JSON."""
    if answer.status_code in (401, 403):
        raise StorageError(
            f"{where}, which does not let us in ({answer.status_code}); set PREFECT_API_AUTH_STRING (or "
            f"PREFECT_API_KEY) to what it wants, {otherwise}"
        )
    if answer.status_code >= 500:
        raise TransientError(f"{where}, which is not well ({answer.status_code}); look at its log, {otherwise}")
    try:
        if answer.status_code < 400:
            return answer.json()
    except ValueError:
        pass
    raise StorageError(
        f"{where}, where no Prefect server answers ({answer.status_code} for {answer.request.url.path}); "
        f"{'' if '/api/' in answer.request.url.path else 'it must end in /api; '}{otherwise}"
    )


def without_secrets(url: str) -> str:
    """Return a URL without user, password, query and fragment."""
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError:
        return "no URL"
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _serve(descriptor: int) -> None:
    os.environ.update(PREFECT__SERVER_EPHEMERAL="1", PREFECT__SERVER_FINAL="1")  # as Prefect's own ephemeral server
    os.environ.pop("PREFECT_API_URL", None)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import uvicorn
    from prefect.server.api.server import create_app

    server = uvicorn.Server(uvicorn.Config(create_app(), log_level="error", lifespan="on", timeout_graceful_shutdown=1))
    server.run(sockets=[socket.socket(fileno=descriptor)])


def _end_with_parent() -> None:
    """End when the pipe from the parent closes, which the kernel does even on kill -9.

    A parent that lives waits while the server ends in its own time; for one that was killed nobody waits, and a server
    that winds up its services would outlive it by seconds. SQLite's journal makes the hard end safe.
    """
    parent = os.getppid()
    with contextlib.suppress(OSError):
        sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)
    deadline = time.monotonic() + STOP_TIMEOUT
    while os.getppid() == parent and time.monotonic() < deadline:
        time.sleep(0.05)
    os._exit(0)


def _prepare() -> None:
    """Make the database now, so that the first run need not."""
    server = TemporaryServer(server_home() / "prepare.log")
    server.wait()


if __name__ == "__main__":
    _serve(int(sys.argv[1])) if len(sys.argv) > 1 else _prepare()
