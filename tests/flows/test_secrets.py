"""Secrets of the environment, planted wherever a run may find them, are in nothing that it or its server wrote."""

from __future__ import annotations

import base64
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import pytest

from ftlib.testing import tiny_recipe

PLANTED = {
    "AWS_ACCESS_KEY_ID": "AKIAPLANTED7Q",
    "AWS_SECRET_ACCESS_KEY": "wJalr/PLANTED+bPx8",
    "AWS_SESSION_TOKEN": "FwoGPLANTEDsession",
    "HF_TOKEN": "hf_PLANTEDhub",
    "MLFLOW_TRACKING_USERNAME": "ann",
    "MLFLOW_TRACKING_PASSWORD": "PLANTEDmlflow",
    "PGUSER": "reader",
    "PGPASSWORD": "PLANTEDpostgres",
    "PREFECT_API_AUTH_STRING": "ann:PLANTEDprefect",
    "RAY_AUTH_TOKEN": "5ec2e7PLANTEDray" + "0" * 48,
    "REGLAGE_NOTIFY_ADDRESS": "https://hooks.example.org/T0/PLANTEDhook",
}
SECRETS = {name: value for name, value in PLANTED.items() if "PLANTED" in value}
IN_URLS = "PLANTEDinurl"


def shapes(secret: str) -> set[bytes]:
    """A secret as it may stand in a file: as it is, in a URL, in a header."""
    words = {secret, quote(secret, safe=""), secret.rpartition(":")[2]}
    return {word.encode() for word in words} | {base64.b64encode(secret.encode())}


def given_away(folder: Path, secrets: dict[str, str]) -> list[str]:
    """Name the secrets that stand in files below a folder, with the files."""
    wanted = [(name, shape) for name, secret in secrets.items() for shape in shapes(secret)]
    found: list[str] = []
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):  # a server's own temporary file
            if path.is_file() and not path.is_symlink():
                data = path.read_bytes()
                found += [f"{name} in {path.relative_to(folder)}" for name, shape in wanted if shape in data]
    return sorted({*found})


class Machine:
    """A folder that holds everything: home, caches, a Prefect server that asks for a password, Ray's sessions."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.recipe = tiny_recipe(folder)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.url = f"http://127.0.0.1:{free.getsockname()[1]}"
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "AWS_", "RAY_"))},
            **PLANTED,
            "HOME": str(folder / "home"),
            "XDG_CACHE_HOME": str(folder / "cache"),
            "TMPDIR": str(folder / "tmp"),
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_API_URL": f"{self.url}/api",
            "PREFECT_LOGGING_LEVEL": "DEBUG",
            "PYTHONSAFEPATH": "1",
        }
        for name in ("home", "tmp"):
            (folder / name).mkdir()

    def start(self) -> subprocess.Popen[bytes]:
        host, port = self.url.removeprefix("http://").split(":")
        server = {**self.environment, "PREFECT_SERVER_API_AUTH_STRING": PLANTED["PREFECT_API_AUTH_STRING"]}
        with (self.folder / "server.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "prefect", "server", "start", "--host", host, "--port", port],
                env=server, stdout=log, stderr=log, cwd=self.folder,
            )  # fmt: skip
        deadline = time.monotonic() + 180
        while time.monotonic() < deadline:
            with suppress(OSError), urllib.request.urlopen(f"{self.url}/api/health", timeout=5):
                return process
            time.sleep(0.5)
        process.kill()
        raise TimeoutError((self.folder / "server.log").read_text()[-2000:])

    def run(self, *words: str, work: str = "work") -> tuple[int, str]:
        """Run a recipe; what it prints is kept as a file beside all others."""
        done = subprocess.run(
            [sys.executable, "-m", "ftlib", "run", str(self.recipe), "--work", str(self.folder / work), *words],
            env=self.environment, capture_output=True, text=True, cwd=self.folder, timeout=600,
        )  # fmt: skip
        said = done.stdout + done.stderr
        with (self.folder / "said.log").open("a") as log:
            log.write(said)
        return done.returncode, said


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    machine = Machine(tmp_path_factory.mktemp("secrets"))
    process = machine.start()
    yield machine
    process.terminate()
    process.wait(30)


@pytest.mark.slow
@pytest.mark.prefect
@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (
            ["--set", "compute.workers=1", "--tensorboard", "curves", "--mlflow", "sqlite:///mlflow.db"],
            0,
            "tiny-router",
        ),
        (["--mlflow", "http://127.0.0.1:9", "--set", "seed=1"], 0, "tiny-router"),
        (
            ["--set", "publish.to={kind: s3, bucket: b, endpoint_url: http://127.0.0.1:9}", "--set", "seed=2"],
            None,
            ":9",
        ),
        (
            ["--set", 'datasets.home.source={kind: sql, uri: "postgresql://127.0.0.1:9/x", query: "select 1"}'],
            None,
            "127.0.0.1:9/x",
        ),
    ],
    ids=["ray and trackers", "no tracking server", "no bucket", "no database"],
)
def test_no_secret_is_in_what_a_run_wrote(machine: Machine, words: list[str], code: int | None, said: str) -> None:
    ended, text = machine.run(*words)
    assert said in text
    assert ended == code if code is not None else ended not in (0, 1), text
    assert given_away(machine.folder, SECRETS) == []


@pytest.mark.slow
@pytest.mark.prefect
@pytest.mark.parametrize(
    "words",
    [
        ["--set", f"publish.to={{kind: s3, bucket: b, endpoint_url: http://ann:{IN_URLS}@127.0.0.1:9}}"],
        ["--set", f"publish.description=see https://b.s3.amazonaws.com/x?X-Amz-Signature={IN_URLS}"],
        ["--set", f"datasets.home.source={{kind: sql, uri: 'postgresql://ann:{IN_URLS}@h/x', query: select 1}}"],
        ["--set", f"compute.ray_address=http://ann:{IN_URLS}@127.0.0.1:8265"],
        ["--mlflow", f"http://ann:{IN_URLS}@127.0.0.1:9"],
    ],
    ids=["endpoint", "signature", "database", "ray", "mlflow"],
)
def test_a_secret_in_a_url_is_refused_before_anybody_keeps_it(machine: Machine, words: list[str]) -> None:
    ended, text = machine.run(*words)
    assert ended == 2, text
    assert given_away(machine.folder, {"url": IN_URLS}) == []


def test_it_finds_what_is_there(tmp_path: Path) -> None:
    """The search itself: in a database's bytes, a URL, a header."""
    secret = PLANTED["PREFECT_API_AUTH_STRING"]
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "header").write_bytes(b"\0Basic " + base64.b64encode(secret.encode()))
    (tmp_path / "url").write_text(f"x={quote(PLANTED['AWS_SECRET_ACCESS_KEY'], safe='')}")
    assert given_away(tmp_path, SECRETS) == ["AWS_SECRET_ACCESS_KEY in url", "PREFECT_API_AUTH_STRING in a/header"]
