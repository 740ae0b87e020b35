"""The folder where stages leave their output: one folder per (stage, fingerprint), complete or absent.

<root>/stages/<stage>/<fingerprint>/      data, and artifact.json written last; appears by one rename
<root>/stages/<stage>/<fingerprint>.lock  held (flock) while it is being made; the kernel frees it on kill -9
<root>/stages/<stage>/<fingerprint>.work  what a killed attempt left: wiped, or resumed by a stage that can
<root>/runs/<recipe name>/                report.html, run.json of the last run
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from ftlib.artifacts import Artifact
from ftlib.config import user_path
from ftlib.errors import BusyError, StorageError
from ftlib.fingerprint import Job

A = TypeVar("A", bound=Artifact)

RECORD = "artifact.json"


class Workspace:
    """A local or shared (NFS) folder; every worker of a cluster must see it under the same path."""

    def __init__(self, root: str | Path) -> None:
        self.root = user_path(root).absolute()

    def folder(self, job: Job) -> Path:
        """Return where the job's output is, or will be."""
        return self.root / "stages" / job.stage / job.fingerprint

    def find(self, job: Job, kind: type[A]) -> A | None:
        """Return the job's finished artifact, or None. Raises StorageError for a record that cannot be read."""
        return read_record(self.folder(job), kind)

    def has(self, job: Job) -> bool:
        """Say whether the job's output is there, without reading its record."""
        return (self.folder(job) / RECORD).is_file()

    def once(self, job: Job, kind: type[A], build: Callable[[Path], A], *, resumable: bool = False) -> A:
        """Return the job's artifact, building it at most once however many processes ask.

        `build` gets an empty folder (or, if `resumable`, what the last attempt left) and returns the record; it may
        fail or be killed at any point without anything becoming visible. Raises StorageError on a full or
        read-only disk.
        """
        final = self.folder(job)
        with _storage_errors(final), exclusive(final.with_suffix(".lock"), wait=True):
            if (done := read_record(final, kind)) is not None:
                return done
            work = final.with_suffix(".work")
            if work.exists() and not resumable:
                shutil.rmtree(work)
            work.mkdir(parents=True, exist_ok=True)
            started = time.monotonic()
            record = build(work)
            record = record.model_copy(
                update={
                    "uri": str(final),
                    "fingerprint": job.fingerprint,
                    "seconds": round(time.monotonic() - started, 3),
                }
            )
            write_durably(work / RECORD, record.model_dump_json(indent=1).encode())
            if final.exists():  # a record-less folder: someone deleted artifact.json by hand
                shutil.rmtree(final)
            work.rename(final)
            return record


def read_record(folder: Path, kind: type[A]) -> A | None:
    """Read a folder's record; None if the folder has none. Raises StorageError if the record is damaged."""
    try:
        text = (folder / RECORD).read_bytes()
    except FileNotFoundError:
        return None
    try:
        return kind.model_validate_json(text).model_copy(update={"uri": str(folder)})
    except ValidationError as error:
        raise StorageError(
            f"{folder / RECORD} is not a {kind.__name__} record ({error.error_count()} errors); "
            f"it was damaged or made by another version: delete {folder} to make it again"
        ) from error


def write_durably(path: Path, data: bytes) -> None:
    """Write a file so that after a power cut it is either absent or whole: temporary name, fsync, rename."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def exclusive(lock: Path, *, wait: bool) -> Generator[None]:
    """Hold a lock file. Raises BusyError, naming the holder, if it is taken and `wait` is false.

    Raises StorageError where it cannot be written.
    """
    with _storage_errors(lock):
        lock.parent.mkdir(parents=True, exist_ok=True)
        stream = lock.open("a+")
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            stream.seek(0)
            holder = _holder(stream.read())
            raise BusyError(f"{lock.stem} is already running: {holder}; wait for it or stop it") from None
        stream.seek(0)
        stream.truncate()
        stream.write(json.dumps({"pid": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}))
        stream.flush()
        yield


def _holder(text: str) -> str:
    try:
        facts = json.loads(text)
        return f"process {facts['pid']} since {facts['since']}"
    except (ValueError, KeyError):
        return "by another process"


@contextmanager
def _storage_errors(folder: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        where = error.filename or folder
        raise StorageError(f"{where}: {error.strerror}; free space there or choose another --work") from error
