"""Commands with their work in a bucket, as users start them: the endpoint is lost in mid-run, two retrain at once."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

import pytest

from ftlib.testing import tiny_recipe
from tests.ftlib.conftest import bucket, s3_credentials, s3_endpoint  # noqa: F401

pytestmark = [pytest.mark.prefect, pytest.mark.slow]

IMPATIENT = """
import sys
from flows.command_line.main import main
from ftlib.storage.s3 import S3Store
S3Store.__init__.__defaults__ = ("", None, 8.0, None)  # as long a request is repeated
main()
"""
LONG = ["--set", "phases.tune.optimizer.epochs=40", "--set", "compute.checkpoint_seconds=2"]


class Link:
    """The way to a server: while it is cut nobody listens, and what was connected is reset."""

    def __init__(self, endpoint: str) -> None:
        self._there = (str(urlsplit(endpoint).hostname), int(urlsplit(endpoint).port or 0))
        self._open = list[socket.socket]()
        self._port = 0
        self.heal()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def heal(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", self._port))
        self._port = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listening,), daemon=True).start()

    def cut(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for one in self._open:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._open.clear()

    def _accept(self, listening: socket.socket) -> None:
        with suppress(OSError):
            while True:
                near, _ = listening.accept()
                try:
                    far = socket.create_connection(self._there)
                except OSError:
                    near.close()
                    continue
                self._open += [near, far]
                for ends in ((near, far), (far, near)):
                    threading.Thread(target=self._pass_on, args=ends, daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
        for one in (source, target):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


@pytest.fixture(autouse=True)
def nobody_goes_on() -> Iterator[None]:
    yield
    for process in Command.started:
        process.kill()
        process.wait()
    Command.started.clear()


@pytest.fixture
def link(s3_endpoint: str) -> Iterator[Link]:  # noqa: F811
    link = Link(s3_endpoint)
    yield link
    link.cut()


class Command:
    """A command on a machine of its own: it shares the bucket with others, and no disk."""

    started: ClassVar[list[subprocess.Popen[bytes]]] = []

    def __init__(self, machine: Path, endpoint: str, *words: str, program: tuple[str, ...] = ("-m", "ftlib")) -> None:
        machine.mkdir(exist_ok=True)
        names = {"AWS_ENDPOINT_URL": endpoint, "REGLAGE_CACHE": str(machine / "cache"), "COLUMNS": "200"}
        self.log = machine / f"{words[0]}-{time.monotonic_ns()}.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, *program, *words],
                cwd=machine,
                env={**os.environ, **names},
                stdout=log,
                stderr=log,
            )
        self.started.append(self.process)

    @property
    def said(self) -> str:
        return self.log.read_text()

    def wait_for(self, holds: Callable[[], bool], seconds: float = 400.0) -> None:
        ends = time.monotonic() + seconds
        while not holds():
            assert self.process.poll() is None, self.said[-3000:]
            assert time.monotonic() < ends, self.said[-3000:]
            time.sleep(0.2)

    def ends(self, code: int = 0) -> str:
        assert self.process.wait(600) == code, self.said[-3000:]
        return self.said


class Project:
    """A recipe whose registry and work are in a bucket."""

    def __init__(self, folder: Path, bucket: Any) -> None:  # noqa: F811
        folder.mkdir()
        self.bucket = bucket
        self.recipe = tiny_recipe(folder)
        text = self.recipe.read_text()
        to = f"{{kind: s3, bucket: {bucket.name}, prefix: registry}}"
        self.recipe.write_text(text.replace(f"{{kind: folder, path: {folder}/registry}}", to))
        self.work = f"s3://{bucket.name}/work"

    def keys(self, prefix: str) -> list[str]:
        return [one.key for one in self.bucket.objects.filter(Prefix=prefix)]

    def saved(self) -> int:
        """How many checkpoints of a training that goes on are in the bucket."""
        return len({key.split("/")[4] for key in self.keys("work/attempts/") if "/step-" in key})

    def tuned(self) -> dict[str, Any]:
        """The artifact of the long phase."""
        records = [key for key in self.keys("work/stages/train/") if key.endswith("record.json")]
        artifacts = [json.loads(self.bucket.Object(key).get()["Body"].read())["artifact"] for key in records]
        (tuned,) = [one for one in artifacts if one["phase"] == "tune"]
        return tuned

    def versions(self) -> list[str]:
        return [key for key in self.keys("registry/models/") if "/versions/" in key]


@pytest.fixture
def project(tmp_path: Path, bucket: Any) -> Project:  # noqa: F811
    return Project(tmp_path / "project", bucket)


def test_an_endpoint_that_is_lost_for_a_while_costs_nothing(project: Project, link: Link, tmp_path: Path) -> None:
    run = Command(tmp_path / "one", link.url, "run", str(project.recipe), "--work", project.work, *LONG)
    run.wait_for(lambda: project.saved() > 0)
    link.cut()
    time.sleep(12)
    assert run.process.poll() is None
    link.heal()
    run.ends()
    folder = Command(tmp_path / "two", link.url, "run", str(project.recipe), "--work", "work", *LONG)
    folder.ends()
    records = [json.loads(path.read_text()) for path in (tmp_path / "two/work/stages/train").glob("*/artifact.json")]
    assert project.tuned()["weights"] in {record["weights"] for record in records}
    assert len(project.versions()) == 1  # the second run published the same


def test_an_endpoint_that_is_gone_ends_the_run_in_a_line_and_the_next_goes_on(
    project: Project, link: Link, tmp_path: Path
) -> None:
    words = ("run", str(project.recipe), "--work", project.work, *LONG)
    run = Command(tmp_path / "one", link.url, *words, program=("-c", IMPATIENT))
    run.wait_for(lambda: project.saved() > 0)
    link.cut()
    assert run.process.wait(300) != 0
    assert "check the endpoint and the network, then run again" in run.said.strip().splitlines()[-1]
    assert "Traceback" not in run.said
    link.heal()
    Command(tmp_path / "other", link.url, *words).ends()
    assert project.tuned()["facts"]["resumed_from_step"] > 0
    assert len(project.versions()) == 1


def test_of_two_retrainings_at_once_one_publishes_and_the_other_says_why_not(
    project: Project, link: Link, tmp_path: Path
) -> None:
    both = [
        Command(tmp_path / name, link.url, "retrain", str(project.recipe), "--work", project.work)
        for name in ("one", "two")
    ]
    said = [one.ends() for one in both]
    assert len(project.versions()) == 1
    assert sum("promoted" in one for one in said) == 1
    assert sum("skipped" in one for one in said) == 1
