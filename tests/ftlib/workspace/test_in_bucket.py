"""A work place in a bucket: what a folder promises, between machines that share nothing but the bucket."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from ftlib.artifacts import Artifact
from ftlib.fingerprint import Job
from ftlib.storage import node_cache
from ftlib.storage.node_cache import local_path
from ftlib.workspace import Workspace


class Stage(Job):
    stage: ClassVar[str] = "stage"
    version: ClassVar[int] = 1

    name: str = "one"


class Made(Artifact):
    said: str

    def digest(self) -> str:
        return self.said


FILES = {"model/weights": b"w" * 1000, "model/same": b"w" * 1000, "nothing": b"", "notes/a/b.txt": b"text"}


def build(folder: Path) -> Made:
    for name, data in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    (folder / "hollow" / "inner").mkdir(parents=True)
    return Made(said="done")


class Machine:
    """Another machine's work place: a cache and connections of its own."""

    def __init__(self, uri: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.uri, self.cache, self._monkeypatch = uri, cache, monkeypatch

    def __enter__(self) -> Workspace:
        self._monkeypatch.setenv("REGLAGE_CACHE", str(self.cache))
        return Workspace(self.uri)

    def __exit__(self, *_: object) -> None:
        pass


@pytest.fixture
def machines(bucket, s3_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Machine]:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    return [Machine(f"s3://{bucket.name}/work", tmp_path / f"node{i}", monkeypatch) for i in range(2)]


def files_in(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "artifact.json"
    }


def test_what_one_machine_made_another_finds_and_reads_part_by_part(machines: list[Machine], bucket) -> None:
    with machines[0] as work:
        assert work.find(Stage(), Made) is None
        made = work.once(Stage(), Made, build)
        assert made.uri == work.uri(Stage()) == f"{machines[0].uri}/stages/stage/{Stage().fingerprint}"
        assert files_in(made.path) == FILES
        assert made.path == work.folder(Stage())
    with machines[1] as work:
        found = work.once(Stage(), Made, lambda _: pytest.fail("it is there"))
        assert found == made
        assert files_in(found.local(Path("model"))) == {"weights": FILES["model/weights"], "same": FILES["model/same"]}
        assert not (work.folder(Stage()) / "notes").exists()
        assert not local_path(f"{found.uri}/adapter").exists()
        assert files_in(found.path) == FILES
        assert (found.path / "hollow" / "inner").is_dir()
    blobs = [o.key for o in bucket.objects.all() if "/blobs/" in o.key]
    assert len(blobs) == 3  # the same bytes are stored once


def test_shared_replaced_and_carried_files(machines: list[Machine], tmp_path: Path) -> None:
    (model := tmp_path / "model").mkdir()
    (model / "config.json").write_text("{}")
    with machines[0] as work:
        for relative, text in (("outcomes/ab.parquet", "table"), ("runs/r/run.json", "first")):
            (work.root / relative).parent.mkdir(parents=True, exist_ok=True)
            (work.root / relative).write_text(text)
        work.share("outcomes/ab.parquet")
        work.replace("runs/r/run.json")
        carried = work.carry(model)
        assert carried == work.carry(model) == work.carry(local_path(carried))
    with machines[1] as work:
        assert work.shared("outcomes/ab.parquet").read_text() == "table"
        assert not work.shared("outcomes/other").exists()
        assert work.newest("runs/r/run.json").read_text() == "first"
        assert work.names("outcomes") == ["ab.parquet"]
        assert files_in(local_path(carried)) == {"config.json": b"{}"}
        work.root.joinpath("runs/r/run.json").write_text("second")
        work.replace("runs/r/run.json")
    with machines[0] as work:
        assert work.newest("runs/r/run.json").read_text() == "second"
