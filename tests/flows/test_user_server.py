"""The user's own Prefect server: whatever is wrong with it is one line that names the variable, the URL, the remedy."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_URL,
    temporary_settings,
)

from deployments.machine.checks import prefect
from flows import prefect_server
from flows.prefect_server import check_user_server, without_secrets
from ftlib.errors import StorageError, TransientError

ANSWERS: dict[str, tuple[int, str]] = {}
HEARD: list[str | None] = []


class Server(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        HEARD.append(self.headers.get("Authorization"))
        code, body = ANSWERS.get(self.path, (404, "<html>not here</html>"))
        self.send_response(code)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefect_server, "ANSWER_TIMEOUT", 0.5)


def asked(
    monkeypatch: pytest.MonkeyPatch, url: str, answers: dict[str, tuple[int, str]], auth: str | None = None
) -> str:
    ANSWERS.clear()
    ANSWERS.update(answers)
    HEARD.clear()
    monkeypatch.setenv("PREFECT_API_URL", url)
    with temporary_settings({PREFECT_API_URL: url, PREFECT_API_AUTH_STRING: auth}):
        return check_user_server()


GOOD = {"/api/health": (200, "true"), "/api/admin/version": (200, json.dumps("3.8.0"))}


def test_a_server_that_answers_is_used_with_what_lets_us_in(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"http://127.0.0.1:{port}/api"
    assert asked(monkeypatch, url, GOOD, auth="ann:secret") == url
    assert HEARD == ["Basic YW5uOnNlY3JldA=="] * 2  # printf ann:secret | base64


@pytest.mark.parametrize(
    ("answers", "kind", "said"),
    [
        ({"/api/health": (401, "")}, StorageError, r"does not let us in \(401\); set PREFECT_API_AUTH_STRING"),
        ({"/api/health": (403, "")}, StorageError, r"does not let us in \(403\)"),
        ({}, StorageError, r"no Prefect server answers \(404 for /api/health\); correct it, or"),
        ({"/api/health": (200, "<html>")}, StorageError, "no Prefect server answers"),
        ({"/api/health": (200, '{"status": "ok"}')}, StorageError, "no Prefect server answers"),
        ({"/api/health": (503, "")}, TransientError, r"is not well \(503\)"),
        ({**GOOD, "/api/admin/version": (200, '"2.20.1"')}, StorageError, r"Prefect is 2\.20\.1, and this one's is 3"),
    ],
)  # fmt: skip
def test_any_other_answer_is_one_line(
    port: int, monkeypatch: pytest.MonkeyPatch, answers: dict[str, tuple[int, str]], kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind, match=said) as caught:
        asked(monkeypatch, f"http://ann:secret@127.0.0.1:{port}/api", answers)
    line = str(caught.value)
    assert line.startswith(f"PREFECT_API_URL is http://127.0.0.1:{port}/api, ")
    assert "unset it" in line
    assert "secret" not in line
    assert "\n" not in line


def test_a_server_that_is_not_there_or_hangs_is_one_line(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        with pytest.raises(TransientError, match=r"does not answer within 0 s; start it, correct it, or unset it"):
            asked(monkeypatch, f"http://127.0.0.1:{hanging.getsockname()[1]}/api", {})
        closed = hanging.getsockname()[1]
    with pytest.raises(TransientError, match=r"cannot be reached \(.*refused\); start it"):
        asked(monkeypatch, f"http://127.0.0.1:{closed}/api", {})
    with pytest.raises(TransientError, match=r"cannot be reached"):
        asked(monkeypatch, "http://no-such-host.invalid/api", {})


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/api", "127.0.0.1:4200/api", "http://127.0.0.1:port/api"])
def test_what_is_no_url_is_one_line(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StorageError, match="which is no URL of a server"):
        asked(monkeypatch, url, {})


def test_tls_that_fails_names_the_certificate(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StorageError, match=r"whose TLS fails .*PREFECT_API_SSL_CERT_FILE"):
        asked(monkeypatch, f"https://127.0.0.1:{port}/api", GOOD)


def test_a_profile_is_named_as_such_and_doctor_says_the_same(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    ANSWERS.clear()
    monkeypatch.setattr("deployments.machine.checks.user_has_server", lambda: True)
    with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{port}/api"}):
        found = prefect()
    assert not found.ok
    assert found.found.startswith("PREFECT_API_URL of the Prefect profile is http://127.0.0.1:")
    assert "prefect config unset PREFECT_API_URL" in found.remedy


def test_settings_that_prefect_cannot_read_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise ValueError("profiles.toml: Expected '=' after a key\nmore")

    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    (tmp_path / "profiles.toml").write_text("active")
    monkeypatch.setattr("prefect.settings.get_current_settings", broken)
    with pytest.raises(StorageError, match=r"not usable: profiles\.toml: Expected '=' after a key; correct"):
        prefect_server.user_has_server()


def test_no_secret_of_a_url_is_shown() -> None:
    assert without_secrets("https://u:p@host:1/api?key=x#y") == "https://host:1/api"


def test_a_setting_that_prefect_refuses_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://[x/api")
    monkeypatch.setenv("PREFECT_API_REQUEST_TIMEOUT", "soon")
    from prefect.settings import Settings

    monkeypatch.setattr("prefect.settings.get_current_settings", Settings)
    with pytest.raises(StorageError, match=r"not usable: .*request_timeout.*; correct the PREFECT_\* variables"):
        check_user_server()


def test_a_url_that_does_not_end_in_api_is_told_to(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StorageError, match=r"\(404 for /health\); it must end in /api"):
        asked(monkeypatch, f"http://127.0.0.1:{port}", GOOD)
