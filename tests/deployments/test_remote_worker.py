"""A worker of another machine: it has the server's address, a bucket's credentials and a home of its own, no more."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from deployments.machine import programs
from deployments.machine.server import SOCKET
from deployments.machine.state import StateFolder
from ftlib.testing import tiny_recipe

pytestmark = [pytest.mark.prefect, pytest.mark.slow, pytest.mark.timeout(1800)]

AWS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    for name, value in {**AWS, "AWS_ENDPOINT_URL": f"http://{host}:{port}"}.items():
        monkeypatch.setenv(name, value)
    bucket = boto3.resource("s3", endpoint_url=f"http://{host}:{port}").Bucket("team")
    bucket.create()
    yield bucket
    moto.stop()


@contextmanager
def going(command: tuple[str, ...], environment: dict[str, str], folder: Path, *descriptors: int) -> Generator[Path]:
    """Run a program until the block ends; give its log."""
    log = folder.with_suffix(".log")
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, env=environment, cwd=folder, stdout=stream, stderr=stream, pass_fds=descriptors
        )
    try:
        yield log
    finally:
        process.terminate()
        process.wait(90)


@contextmanager
def server_of(folder: Path) -> Generator[str]:
    state = StateFolder(folder)
    state.make()
    with socket.create_server(("127.0.0.1", 0)) as listens:
        port, descriptor = listens.getsockname()[1], listens.fileno()
        program = programs.server(state, port, None)
        environment = {**program.environment, SOCKET: str(descriptor)}
        with going(program.command, environment, Path(program.folder), descriptor):
            yield f"http://127.0.0.1:{port}/api"


@contextmanager
def worker_of(folder: Path, api: str) -> Generator[Path]:
    """Start a worker as the page says, with nothing of this process but its path and the bucket's credentials."""
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "AWS_ENDPOINT_URL", *AWS)}
    environment = {**kept, "HOME": str(folder), "PREFECT_API_URL": api, "PYTHONSAFEPATH": "1", "DO_NOT_TRACK": "1"}
    command = (sys.executable, "-m", "prefect", "worker", "start", "--pool", "gpu-box", "--type", "process")
    with going(command, environment, folder) as log:
        yield log


def reglage(*words: str, folder: Path, **more: str) -> str:
    """Run a command in a process of its own: Prefect reads its settings once in each."""
    command = (sys.executable, "-m", "flows.command_line.main", *words)
    done = subprocess.run(command, env=os.environ | more, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def call(api: str, path: str, body: object = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(
        urllib.request.Request(api + path, data, {"content-type": "application/json"})
    ) as answer:
        return json.loads(answer.read())


def test_it_retrains_and_publishes_where_both_see_it(bucket: Any, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    (there / "recipes").mkdir(parents=True)
    recipe = tiny_recipe(there)  # its rows and model are on the other machine alone
    recipe = recipe.rename(there / "recipes" / "tickets.yaml")
    (here / "recipes").mkdir()
    (here / "recipes" / "tickets.yaml").write_text(recipe.read_text())
    there.rename(tmp_path / "away")  # while this machine deploys, the other's folders are not here
    environment = here / "gpu-box.yaml"
    environment.write_text(
        f"name: gpu-box\npool: {{name: gpu-box}}\nhome: {there}\nwork: s3://team/work\nregistry: s3://team/registry\n"
    )
    with server_of(here) as api:
        deadline = time.monotonic() + 300
        while True:
            with suppress(OSError):
                call(api, "/health")
                break
            assert time.monotonic() < deadline
            time.sleep(0.5)
        reglage("deploy", "recipes/tickets.yaml", "--env", str(environment), folder=here, PREFECT_API_URL=api)
        (tmp_path / "away").rename(there)
        with worker_of(there, api) as log:
            deployment = call(api, "/deployments/name/retrain/tiny-router")
            run = call(api, f"/deployments/{deployment['id']}/create_flow_run", {})["id"]
            deadline = time.monotonic() + 900
            while (state := call(api, f"/flow_runs/{run}")["state"])["type"] not in ("COMPLETED", "FAILED", "CRASHED"):
                assert time.monotonic() < deadline, state
                time.sleep(1)
            assert state["name"] == "Promoted", log.read_text()
    keys = {one.key for one in bucket.objects.all()}
    assert any(key.startswith("registry/models/tiny-router/") for key in keys), sorted(keys)[:20]
    assert any(key.startswith("work/stages/train/") for key in keys)
    assert not (there / "work").exists()
    assert {path.name for path in here.iterdir()} == {".reglage", ".reglage.log", "recipes", "gpu-box.yaml"}
    assert "tiny-router" in reglage("registry", "list", "--registry", "s3://team/registry", folder=here)
