"""A stage with every sort of file, and machines that share nothing but a bucket."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from ftlib.artifacts import Artifact
from ftlib.fingerprint import Job
from ftlib.storage import S3Store
from ftlib.storage.node_cache import node_view
from ftlib.storage.place import Place
from ftlib.workspace import Workspace

FILES = {"model/weights": b"w" * 1000, "model/same": b"w" * 1000, "nothing": b"", "notes/a/b.txt": b"text"}


class Stage(Job):
    stage: ClassVar[str] = "stage"
    version: ClassVar[int] = 1

    name: str = "one"


class Made(Artifact):
    said: str

    def digest(self) -> str:
        return self.said


def build(folder: Path) -> Made:
    for name, data in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    (folder / "hollow" / "inner").mkdir(parents=True, exist_ok=True)
    return Made(said="done")


def files_in(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "artifact.json"
    }


def machine(uri: str, cache: Path, endpoint: str, deadline: float = 3.0) -> Workspace:
    """Make this process a machine with that cache, whose requests go to that endpoint."""
    os.environ["REGLAGE_CACHE"], os.environ["AWS_ENDPOINT_URL"] = str(cache), endpoint
    place = Place.parse(uri)
    node_view(place).store = S3Store(place.bucket, place.prefix, endpoint, deadline=deadline)
    return Workspace(uri)


def forked(act: Callable[[], object]) -> int:
    """Run a call in a forked process and return its id; it ends with 0, or with 1 where the call raised."""
    if child := os.fork():
        return child
    code = 1
    try:
        act()
        code = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(code)


def ended(child: int) -> int:
    """Wait for a process and return how it ended: its exit code, or less than 0 for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
