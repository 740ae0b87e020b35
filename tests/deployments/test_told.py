"""Who is told what, through a server that runs: each occasion makes one message in Slack, by mail and at a webhook."""

import json
import socket
import socketserver
import ssl
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from email import message_from_string
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar, get_args

import pytest
from prefect import get_client
from prefect.client.schemas.objects import State, StateType
from prefect.settings import PREFECT_API_URL, temporary_settings

from deployments.apply import apply
from deployments.environment import DeployedRecipe, Environment, Notification, Occasion
from deployments.machine import programs
from deployments.machine.server import SOCKET
from deployments.machine.state import StateFolder
from deployments.notifications import notices, save_block
from flows.events import DRIFT, QUALITY, send_event
from ftlib.testing import tiny_recipe
from tests.deployments.test_notifications import Heard, Mailbox

pytestmark = [pytest.mark.prefect, pytest.mark.slow, pytest.mark.timeout(1800)]

SLACK = "https://hooks.slack.com/services/T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ"
ENDS: dict[Occasion, tuple[StateType, str, str]] = {
    "failed": (StateType.FAILED, "Failed", "nothing was promoted"),
    "crashed": (StateType.CRASHED, "Crashed", "run again by itself, twice at most"),
    "refused": (StateType.COMPLETED, "Not promoted", "the version in place stays"),
    "waiting": (StateType.PAUSED, "Suspended", "press Resume"),
    "held": (StateType.COMPLETED, "Held", "a person rolled back"),
    "superseded": (StateType.COMPLETED, "Superseded", "answer that one"),
    "promoted": (StateType.COMPLETED, "Promoted", "A new version is in place"),
    "rolled_back": (StateType.COMPLETED, "Rolled back", "the version before is in place again"),
}
ANSWERS: dict[Occasion, tuple[str, str]] = {
    "drifted": (DRIFT, "no longer like what it was made with"),
    "worse": (QUALITY, "worse than they may be"),
}


class Slack(socketserver.StreamRequestHandler):
    """A proxy behind which somebody calls himself hooks.slack.com, and takes what is posted there."""

    context: ClassVar[ssl.SSLContext]
    posted: ClassVar[list[dict[str, Any]]] = []

    def handle(self) -> None:
        assert self.rfile.readline().startswith(b"CONNECT hooks.slack.com:443 ")
        while self.rfile.readline().strip():
            pass
        self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        with self.context.wrap_socket(self.request, server_side=True) as inside:
            _Hook(inside, self.client_address, self.server)


class _Hook(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert self.path == SLACK.removeprefix("https://hooks.slack.com")
        Slack.posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def listening(handler: Any, make: Any = socketserver.ThreadingTCPServer) -> Generator[int]:
    with make(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def certificate(folder: Path) -> Path:
    """Make a certificate of hooks.slack.com, and let the proxy show it; return what trusts it."""
    key, shown = folder / "key.pem", folder / "certificate.pem"
    words = ["-subj", "/CN=hooks.slack.com", "-addext", "subjectAltName=DNS:hooks.slack.com", "-days", "2", "-nodes"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-keyout", str(key), "-out", str(shown), *words]
    subprocess.run(command, check=True, capture_output=True)
    Slack.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    Slack.context.load_cert_chain(shown, key)
    return shown


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The server of `reglage up`, which reaches Slack through the proxy, and nothing beyond it."""
    trusted, folder = certificate(tmp_path), StateFolder(tmp_path)
    folder.make()
    with (
        listening(Slack) as proxy,
        (tmp_path / "server.log").open("wb") as log,
        socket.create_server(("127.0.0.1", 0)) as listens,
    ):
        port, descriptor = listens.getsockname()[1], listens.fileno()
        program = programs.server(folder, port, None)
        beyond = {"HTTPS_PROXY": f"http://127.0.0.1:{proxy}", "REQUESTS_CA_BUNDLE": str(trusted)}
        process = subprocess.Popen(
            program.command, env={**program.environment, **beyond, SOCKET: str(descriptor)}, pass_fds=[descriptor],
            stdout=log, stderr=log, cwd=program.folder,
        )  # fmt: skip
        url = f"http://127.0.0.1:{port}"
        try:
            until(f"{url} answers", lambda: answers(f"{url}/api/health"))
            with temporary_settings({PREFECT_API_URL: f"{url}/api"}):
                yield url
        finally:
            process.terminate()
            process.wait(60)


def answers(url: str) -> bool:
    asked = urllib.request.Request(url, headers={"accept": "text/html"})  # as a browser: pages are for nobody else
    with suppress(OSError), urllib.request.urlopen(asked, timeout=5) as answer:
        return answer.status == 200
    return False


def until(what: str, holds: Callable[[], object], seconds: float = 600.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"{what}: not after {seconds:.0f} s; {told()}"
        time.sleep(0.5)


def ended(deployment: str, name: str, kind: StateType, state: str) -> str:
    """Let a run of a deployment come to a state; return its id."""
    with get_client(sync_client=True) as client:
        run = client.create_flow_run_from_deployment(client.read_deployment_by_name(deployment).id, name=name)
        client.set_flow_run_state(run.id, State(type=StateType.RUNNING), force=True)
        client.set_flow_run_state(run.id, State(type=kind, name=state, message=f"why it is {name}"), force=True)
    return str(run.id)


def soon_too_old(tell: tuple[Notification, ...]) -> None:
    """Let a model be too old after ten seconds, which a file cannot say; all else stays as it was installed."""
    with get_client(sync_client=True) as client:
        installed = {one.name: one.id for one in client.read_automations()}
        for one in notices(client, tell, "staging"):
            if "too old" in one.name:
                one.trigger.within = timedelta(seconds=10)
                client.update_automation(installed[one.name], one)
    time.sleep(5)  # the server learns of it beside what it does


def as_lines(what: str, text: str) -> str:
    """A message as a person reads it, however it travelled."""
    return " ".join(f"{what} {text}".replace("\\n", " ").split())


def told() -> dict[str, list[str]]:
    """Return what was received so far, by way."""
    mails = [message_from_string(mail) for mail in Mailbox.mails]
    parts = [(mail, part) for mail in mails for part in mail.walk() if part.get_content_type() == "text/plain"]
    return {
        "webhook": [as_lines(one["subject"], one["body"]) for one in Heard.posted],
        "slack": [as_lines("", json.dumps(one, ensure_ascii=False)) for one in Slack.posted],
        "mail": [as_lines(str(m["Subject"]), str(p.get_payload(decode=True), "utf-8")) for m, p in parts],
    }


def test_each_occasion_reaches_people_once_with_a_sentence_and_a_link(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", f"{server}/api")
    for received in (Heard.posted, Mailbox.mails, Slack.posted):
        received.clear()
    recipe = DeployedRecipe(recipe=str(tiny_recipe(tmp_path)))
    with listening(Heard, ThreadingHTTPServer) as hook, listening(Mailbox) as post:
        blocks = [
            save_block("pager", "webhook", f"http://127.0.0.1:{hook}/hook?token=S3CRET"),
            save_block("team", "slack", SLACK),
            save_block("office", "mail", f"mailto://127.0.0.1:{post}?from=reglage@example.org&to=team@example.org"),
        ]
        tell = tuple(Notification(block=block, events=get_args(Occasion)) for block in blocks)
        apply(Environment(name="staging", home=str(tmp_path), recipes=(recipe,), notifications=tell))
        time.sleep(5)

        links: dict[str, str] = {}
        for occasion, (kind, state, _) in ENDS.items():
            run = ended("retrain/retrain", occasion, kind, state)
            links[occasion] = f"{server}/runs/flow-run/{run}"
        ended("janitor/janitor", "skipped", StateType.COMPLETED, "Skipped")  # nobody wants to know
        for occasion, (event, _) in ANSWERS.items():
            links[occasion] = f"{server}/runs/flow-run/of-{occasion}"
            send_event(event, "tiny-router", occasion, {"message": f"why it is {occasion}", "link": links[occasion]})
        wanted = {occasion: says for occasion, (*_, says) in ENDS.items()} | {
            occasion: says for occasion, (_, says) in ANSWERS.items()
        }
        until("all but one are told", lambda: all(len(seen) >= len(wanted) for seen in told().values()))
        soon_too_old(tell)
        ended("retrain/tiny-router", "failed again", StateType.FAILED, "Failed")
        until("all are told", lambda: all(len(seen) >= len(wanted) + 2 for seen in told().values()))
        time.sleep(10)  # nobody is told twice

        for way, seen in told().items():
            print(way, *sorted(seen), sep="\n    ")
            assert len(seen) == len(wanted) + 2, way
            for occasion, says in wanted.items():
                (message,) = [one for one in seen if links[occasion] in one]
                assert says in message
                assert f"why it is {occasion}" in message
                assert ("tiny-router " if occasion in ANSWERS else occasion) in message
                assert "reglage.dataset" not in message  # whose name a person knows
            (old,) = [one for one in seen if "too old" in one]
            assert "No run of tiny-router ended well for 7 days" in old
            assert f"{server}/deployments/deployment/" in old
        assert all(answers(link) for link in links.values())
    log = (tmp_path / "server.log").read_text()
    assert "S3CRET" not in log
    assert "TIiajkdnlazkcOXrIdevi7FQ" not in log
