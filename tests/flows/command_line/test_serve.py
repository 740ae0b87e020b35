"""`reglage serve` as a user starts it: its answers, what it refuses, traffic, kills, buckets, and how it ends."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import boto3
import httpx
import psutil
import pytest
from click.testing import CliRunner
from moto.server import ThreadedMotoServer

import flows.run.tracked
from flows.command_line.main import main
from flows.finetune import finetune
from ftlib.answer_log.record import LateLabel, LiveAnswer
from ftlib.recipe.file import load_recipe
from ftlib.registry.aliases import AliasLog
from ftlib.serving.traffic import meets_challenger
from ftlib.storage import Place, open_store
from ftlib.testing import tiny_recipe, tiny_rows
from tests.recipes.test_recipes import PlainRunner, tiny_overrides

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

TEXTS = [str(row["text"]) for row in tiny_rows(12, seed=5)] + ["short", "a crash " * 80]
NAME = "tiny-router"
ROOT = Path(__file__).parents[3]


class Published(NamedTuple):
    """Where a model's versions are."""

    folder: Path
    """Of the test: its pulled versions are cached there."""
    registry: str
    name: str
    endpoint: str | None = None


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
def registry(tmp_path_factory: pytest.TempPathFactory) -> Published:
    """Two versions of a model, of which no alias means any."""
    folder = tmp_path_factory.mktemp("served")
    recipe = tiny_recipe(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flows.run.tracked, "Runner", PlainRunner)
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        finetune.fn(str(recipe), work=str(folder / "work"))
        recipe.write_text(recipe.read_text().replace("learning_rate: 1e-3", "learning_rate: 3e-3"))
        finetune.fn(str(recipe), work=str(folder / "work"))
    return Published(folder, str(folder / "registry"), NAME)


@pytest.fixture
def serve(registry: Published, tmp_path: Path) -> Generator[Callable[..., Server]]:
    """Start servers; what they leave is killed."""
    started: list[Server] = []
    promote(registry, 1)

    def start(*more: str, of: Published = registry) -> Server:
        mark = f"reglage-test-{os.getpid()}-{time.monotonic_ns()}"
        words = [f"{of.name}@champion", "--registry", of.registry, "--home", str(tmp_path), "--threads", "1", *more]
        words += ["--endpoint-url", of.endpoint] if of.endpoint else []
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.command_line.main", "serve", *words],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "XDG_CACHE_HOME": str(of.folder / "cache"), "REGLAGE_TEST_MARK": mark},
        )
        lines: list[str] = []
        threading.Thread(target=read, args=(process, lines), daemon=True).start()
        started.append(Server(process, mark, "", "", lines))
        wait_until(lambda: process.poll() is not None or any(line.startswith("  replicas") for line in lines), 300)
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


def promote(of: Published, version: int, alias: str = "champion") -> None:
    log = AliasLog(open_store(Place.parse(of.registry, of.endpoint)), of.name, alias)
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


def predicted(of: Published, lines: Sequence[str], monkeypatch: pytest.MonkeyPatch, *more: str) -> Any:
    """Return what `reglage predict` says of version 1."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(of.folder / "cache"))
    words = ["predict", f"{of.name}@1", "--registry", of.registry, "--json", *more]
    words += ["--endpoint-url", of.endpoint] if of.endpoint else []
    asked = CliRunner().invoke(main, words, input="".join(f"{line}\n" for line in lines), catch_exceptions=False)
    return json.loads(asked.stdout)["predictions"]


REFUSED = [
    (b"", 422, "the body is no JSON"),
    (b"{", 422, "the body is no JSON"),
    (b"\xff\xfe{}", 422, "the body is no JSON"),
    (b"[" * 100_000, 422, "the body is no JSON"),
    (b"[]", 422, "the body is a list, allowed is one JSON object"),
    (b"{}", 422, "inputs: got nothing, allowed is a list of 1 to 256"),
    (b'{"inputs": "hello"}', 422, "inputs: got a string, allowed is a list"),
    (b'{"inputs": []}', 422, "inputs: got a list of 0, allowed is a list of 1 to 256"),
    (json.dumps({"inputs": ["a"] * 257}).encode(), 422, "inputs: got a list of 257"),
    (b'{"inputs": ["a", 7]}', 422, "inputs[1]: got a number, this model is asked a string"),
    (b'{"inputs": [{"text": "a"}]}', 422, "inputs[0]: got an object, this model is asked a string"),
    (b'{"inputs": ["\\ud800"]}', 422, "inputs[0]: character 0 is half of one"),
    (b'{"inputs": ["a"], "texts": ["b"]}', 422, "unknown field 'texts'; allowed are inputs, request_ids"),
    (b'{"inputs": ["a", "b"], "request_ids": ["x", "x"]}', 422, "no two alike"),
    (b" " * (9 << 20), 413, "the body is longer than the 8,388,608 bytes that are allowed"),
    (iter([b" " * (1 << 20)] * 9), 413, "the body is longer than the 8,388,608 bytes"),
]


def check_refusals(server: Server) -> None:
    for content, status, words in REFUSED:
        said = server.ask("POST", "/predict", content=content)
        assert said.status_code == status, words
        assert words in (line := said.json()["error"]["message"])
        assert "\n" not in line
    assert len(server.predict("many words " * 300_000).json()["predictions"]) == 1
    for method, path, status in (("GET", "/predict", 405), ("GET", "/nix", 404), ("POST", "/version", 405)):
        assert server.ask(method, path).status_code == status
    for shown in ({}, {"Authorization": server.token}, {"Authorization": f"Bearer {server.token}x"}):
        refused = httpx.post(server.url + "/predict", json={"inputs": ["a"]}, headers=shown, trust_env=False)
        assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")


def test_it_answers_as_predict_does_refuses_in_one_line_and_ends_without_a_trace(
    serve: Any, registry: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve("--log", "log", "--log-seconds", "3600")
    said = server.predict(*TEXTS)
    assert said.json()["predictions"] == predicted(registry, TEXTS, monkeypatch)
    assert said.json()["versions"] == [1] * len(TEXTS)
    request = said.json()["request_ids"][0]

    assert httpx.get(server.url + "/health", trust_env=False).json() == {"ready": True, "log_dropped": 0}
    assert server.ask("POST", "/feedback", json={"request": request, "thumb": True}).status_code == 202
    assert server.ask("POST", "/feedback", json={"request": request}).status_code == 422
    check_refusals(server)
    assert server.version()["version"] == 1

    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(timeout=120) == 0, server.lines
    wait_until(lambda: not alive(server.mark), 20)
    assert server.lines[-1] == "stopped\n"
    assert not [line for line in server.lines if "Traceback" in line or "raylet" in line]
    assert len(records(tmp_path / "log" / "answers", LiveAnswer)) == len(TEXTS) + 1
    assert [one.request for one in records(tmp_path / "log" / "labels", LateLabel)] == [request]


def test_an_alias_moves_under_load_and_no_request_is_lost(serve: Any, registry: Published, tmp_path: Path) -> None:
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
    (replica,) = replicas(server)
    replica.kill()
    wait_until(lambda: answers(server))
    assert server.predict("short").json()["versions"] == [1]
    server.process.kill()
    wait_until(lambda: not alive(server.mark), 60)


def test_two_replicas_share_what_comes_and_a_challenger_answers_its_part(
    serve: Any, registry: Published, tmp_path: Path
) -> None:
    promote(registry, 2, "challenger")
    more = ["--challenger", f"{NAME}@challenger", "--share", "0.3", "--replicas", "2"]
    server = serve(*more, "--log", "log")
    ids = [f"request-{number}" for number in range(60)]
    for id in ids:  # each by a connection of its own, which the system hands to one of the two
        said = server.ask("POST", "/predict", json={"inputs": ["short"], "request_ids": [id]})
        assert said.json()["versions"] == [2 if meets_challenger(id, 0.3) else 1]
    (killed, other) = replicas(server)
    assert min(given_by_each(server)) > 0
    killed.kill()
    wait_until(lambda: not killed.is_running() or killed.status() == psutil.STATUS_ZOMBIE)
    for _ in range(20):
        assert server.predict("short").status_code == 200
    wait_until(lambda: len(replicas(server)) == 2)
    assert other in replicas(server)
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(timeout=120) == 0, server.lines
    by_request = {one.request: one.version for one in records(tmp_path / "log" / "answers", LiveAnswer)}
    assert {by_request[id] for id in ids if id in by_request} == {1, 2}


def given_by_each(server: Server) -> list[int]:
    """Return how many answers each of two replicas says it has given, by asking until both were met."""
    found: set[int] = set()
    for _ in range(64):
        found.add(server.version()["counts"].get("answers", 0))
    return sorted(found)


def test_the_shadow_is_asked_everything_and_never_returned(serve: Any, registry: Published, tmp_path: Path) -> None:
    promote(registry, 2, "challenger")
    server = serve("--challenger", f"{NAME}@challenger", "--shadow", "--log", "log")
    said = server.predict(*TEXTS).json()
    assert set(said["versions"]) == {1}
    wait_until(lambda: server.version()["counts"].get("shadow") == len(TEXTS))
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(timeout=120) == 0, server.lines
    found = records(tmp_path / "log" / "answers", LiveAnswer)
    for traffic, version in (("answered", 1), ("shadow", 2)):
        mine = [one.request for one in found if (one.traffic, one.version) == (traffic, version)]
        assert sorted(mine) == sorted(said["request_ids"])


@pytest.fixture(scope="module")
def bucket() -> Generator[str]:
    """An S3 server with the bucket `models`."""
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        boto3.resource("s3", endpoint_url=endpoint).Bucket("models").create()
        yield endpoint
    moto.stop()


def published_to_bucket(recipe: str, folder: Path, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Published:
    """Publish a tiny model of one of our recipes into the bucket."""
    path = ROOT / "recipes" / f"{recipe}.yaml"
    overrides = tiny_overrides(load_recipe(path), folder, endpoint)
    overrides.append(f"publish.to={{kind: s3, bucket: models, prefix: registry, endpoint_url: {endpoint}}}")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(flows.run.tracked, "Runner", PlainRunner)
    record = finetune.fn(str(path), overrides=overrides, work=str(folder / "work")).data
    published = Published(folder, "s3://models/registry", record.result.name, endpoint)
    promote(published, 1)
    return published


def test_images_from_a_bucket(serve: Any, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of = published_to_bucket("images", tmp_path, bucket, monkeypatch)
    images = sorted((tmp_path / "rows" / "icons" / "gnome").rglob("*.png"))[:5]
    server = serve("--log", "s3://models/log", of=of)
    inputs = [{"image_base64": base64.b64encode(image.read_bytes()).decode()} for image in images]
    said = server.ask("POST", "/predict", json={"inputs": inputs}).json()
    asked = predicted(of, [], monkeypatch, *map(str, images))
    without = [{key: value for key, value in one.items() if key != "file"} for one in said["predictions"]]
    assert without == [{key: value for key, value in one.items() if key != "file"} for one in asked]
    for wrong, words in (
        ({"image_base64": "no image"}, "is no base64"),
        ({"file": "/etc/passwd"}, "paths are not read"),
        ("/etc/passwd", "this model is asked an object"),
    ):
        refused = server.ask("POST", "/predict", json={"inputs": [wrong]})
        assert (refused.status_code, words in refused.json()["error"]["message"]) == (422, True)
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(timeout=120) == 0, server.lines
    objects = boto3.resource("s3", endpoint_url=bucket).Bucket("models").objects.filter(Prefix="log/answers/")
    assert sum(len(one.get()["Body"].read().splitlines()) for one in objects) == len(images)


def test_chats(serve: Any, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of = published_to_bucket("chat", tmp_path, bucket, monkeypatch)
    server = serve("--max-new-tokens", "4", of=of)
    chats: list[Any] = ["Hello there", [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]]
    chats[1].append({"role": "user", "content": "again"})
    said = server.ask("POST", "/predict", json={"inputs": chats}).json()["predictions"]
    lines = [chats[0], json.dumps(chats[1])]
    assert said == predicted(of, lines, monkeypatch, "--max-new-tokens", "4")
    refused = server.ask("POST", "/predict", json={"inputs": [[{"role": "nobody", "content": "a"}]]})
    assert refused.status_code == 422


def replicas(server: Server) -> list[psutil.Process]:
    return [one for one in alive(server.mark) if "ServeReplica" in " ".join(one.cmdline())]


def answers(server: Server) -> bool:
    try:
        return server.predict("short").status_code == 200
    except httpx.HTTPError:
        return False
