"""`reglage serve` as a user starts it: its answers, an alias that moves under load, a killed replica, how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import psutil
import pytest
from click.testing import CliRunner

import flows.tracked
from flows.command_line.main import main
from flows.finetune import finetune
from ftlib.answer_log.record import LateLabel, LiveAnswer
from ftlib.registry.aliases import AliasLog
from ftlib.storage import LocalStore
from ftlib.testing import tiny_recipe, tiny_rows
from tests.recipes.test_recipes import PlainRunner

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

TEXTS = [str(row["text"]) for row in tiny_rows(12, seed=5)] + ["short", "a crash " * 80]
NAME = "tiny-router"


class Server(NamedTuple):
    """A server of the test's own."""

    process: subprocess.Popen[str]
    mark: str
    url: str
    token: str
    lines: list[str]
    """What it printed, on both streams."""

    def ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.token}"}
        return httpx.request(method, self.url + path, headers=headers, timeout=60, trust_env=False, **more)

    def predict(self, *texts: str) -> httpx.Response:
        return self.ask("POST", "/predict", json={"inputs": list(texts)})

    def version(self) -> dict[str, Any]:
        return self.ask("GET", "/version").json()


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two versions of a model, of which no alias means any."""
    folder = tmp_path_factory.mktemp("served")
    recipe = tiny_recipe(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flows.tracked, "Runner", PlainRunner)
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        finetune.fn(str(recipe), work=str(folder / "work"))
        recipe.write_text(recipe.read_text().replace("learning_rate: 1e-3", "learning_rate: 3e-3"))
        finetune.fn(str(recipe), work=str(folder / "work"))
    return folder / "registry"


@pytest.fixture
def serve(registry: Path, tmp_path: Path) -> Generator[Callable[..., Server]]:
    """Start servers; what they leave is killed."""
    started: list[Server] = []
    promote(registry, 1)

    def start(*more: str) -> Server:
        mark = f"reglage-test-{os.getpid()}-{time.monotonic_ns()}"
        words = [NAME + "@champion", "--registry", str(registry), "--home", str(tmp_path), "--threads", "1", *more]
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.command_line.main", "serve", *words],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "XDG_CACHE_HOME": str(registry.parent / "cache"), "REGLAGE_TEST_MARK": mark},
        )
        lines: list[str] = []
        threading.Thread(target=read, args=(process, lines), daemon=True).start()
        started.append(Server(process, mark, "", "", lines))
        wait_until(lambda: process.poll() is not None or any("replicas" in line for line in lines), 300)
        assert process.poll() is None, lines
        (url,) = [line.split()[-1] for line in lines if line.startswith("serving:")]
        token = (tmp_path / ".reglage" / "serve.token").read_text().strip()
        started[-1] = started[-1]._replace(url=url, token=token)
        return started[-1]

    yield start
    for server in started:
        for process in alive(server.mark):
            process.kill()


def read(process: subprocess.Popen[str], lines: list[str]) -> None:
    assert process.stdout is not None
    lines.extend(iter(process.stdout.readline, ""))


def promote(registry: Path, version: int) -> None:
    log = AliasLog(LocalStore(registry), NAME, "champion")
    newest = log.newest()
    log.move(version, newest.sequence if newest else None, "me", "why")


def alive(mark: str) -> list[psutil.Process]:
    """Return the processes that were started with a word in their environment, by whoever was."""
    found: list[psutil.Process] = []
    for environment in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"REGLAGE_TEST_MARK={mark}".encode() in environment.read_bytes():
                found.append(psutil.Process(int(environment.parent.name)))
        except (OSError, psutil.Error):
            continue  # it ended meanwhile, or is another user's
    return found


def wait_until(true: Callable[[], object], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.1)


def records(folder: Path, kind: Any) -> list[Any]:
    lines = [line for file in sorted(folder.glob("*.jsonl")) for line in file.read_text().splitlines()]
    return [kind.model_validate_json(line) for line in lines]


def test_it_answers_as_predict_does_and_ends_without_a_trace(
    serve: Any, registry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(registry.parent / "cache"))
    server = serve("--log", "log", "--log-seconds", "3600")
    words = ["predict", f"{NAME}@1", "--registry", str(registry), "--json"]
    asked = CliRunner().invoke(main, words, input="\n".join(TEXTS) + "\n", catch_exceptions=False)
    said = server.predict(*TEXTS)
    assert said.json()["predictions"] == json.loads(asked.stdout)["predictions"]
    assert said.json()["versions"] == [1] * len(TEXTS)
    request = said.json()["request_ids"][0]

    assert httpx.get(server.url + "/health", trust_env=False).json() == {"ready": True, "log_dropped": 0}
    assert httpx.post(server.url + "/predict", json={"inputs": ["a"]}, trust_env=False).status_code == 401
    assert server.ask("POST", "/feedback", json={"request": request, "thumb": True}).status_code == 202
    assert server.ask("POST", "/feedback", json={"request": request}).status_code == 422
    assert server.ask("POST", "/predict", content=b"{").status_code == 422
    assert server.ask("GET", "/predict").status_code == 405
    assert server.ask("GET", "/nix").status_code == 404
    assert server.ask("POST", "/predict", content=b" " * (9 << 20)).status_code == 413
    assert server.ask("POST", "/predict", content=iter([b" " * (1 << 20)] * 9)).status_code == 413
    assert server.version()["version"] == 1

    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(timeout=120) == 0, server.lines
    wait_until(lambda: not alive(server.mark), 20)
    assert server.lines[-1] == "stopped\n"
    assert not [line for line in server.lines if "Traceback" in line or "raylet" in line]
    assert len(records(tmp_path / "log" / "answers", LiveAnswer)) == len(TEXTS)
    assert [one.request for one in records(tmp_path / "log" / "labels", LateLabel)] == [request]


def test_an_alias_moves_under_load_and_no_request_is_lost(serve: Any, registry: Path, tmp_path: Path) -> None:
    server = serve("--log", "log", "--poll-seconds", "0.5")
    found: list[tuple[int, int]] = []
    ended = threading.Event()

    def load(client: httpx.Client) -> None:
        while not ended.is_set():
            said = client.post("/predict", json={"inputs": ["please call about the invoice"]})
            found.append((said.status_code, said.json()["versions"][0] if said.status_code == 200 else 0))

    headers = {"Authorization": f"Bearer {server.token}"}
    clients = [httpx.Client(base_url=server.url, headers=headers, timeout=60, trust_env=False) for _ in range(3)]
    threads = [threading.Thread(target=load, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    for version in (2, 1, 2):
        promote(registry, version)
        wait_until(lambda version=version: found[-1:] == [(200, version)])
    ended.set()
    for thread in threads:
        thread.join()
    assert {status for status, _ in found} == {200}
    assert {version for _, version in found} == {1, 2}
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(timeout=120) == 0, server.lines
    assert len(records(tmp_path / "log" / "answers", LiveAnswer)) == len(found)
    assert sum(f"{NAME}@" in line and "answers now" in line for line in server.lines) == 3


def test_a_killed_replica_comes_back_and_a_server_killed_hard_leaves_no_process(serve: Any) -> None:
    server = serve()
    (replica,) = [one for one in alive(server.mark) if "ServeReplica" in " ".join(one.cmdline())]
    replica.kill()
    wait_until(lambda: answers(server))
    assert server.predict("short").json()["versions"] == [1]
    server.process.kill()
    wait_until(lambda: not alive(server.mark), 60)


def answers(server: Server) -> bool:
    try:
        return server.predict("short").status_code == 200
    except httpx.HTTPError:
        return False
