"""The folder where stages leave their output: one folder per (stage, fingerprint), complete or absent.

<root>/stages/<stage>/<fingerprint>/      data, and artifact.json written last; appears by one rename
<root>/stages/<stage>/<fingerprint>.lock  held (flock) while it is being made; the kernel frees it on kill -9. Its time
                                          of change is when somebody last asked for the output
<root>/stages/<stage>/<fingerprint>.work  what a killed attempt left: wiped, or resumed by a stage that can
<root>/runs/<recipe name>/                report.html, run.json of the last run; history/, what each run used;
                                          published/, where its versions lie
<root>/users/<process>.lock               held by a process that uses the folder, from its first output until it ends

`ftlib.work_collection` deletes what nobody needs, and keeps to these locks.
"""

from __future__ import annotations

import atexit
import fcntl
import json
import os
import shutil
import socket
import time
import uuid
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager, suppress
from io import FileIO
from pathlib import Path
from threading import Lock
from typing import TypeVar

from pydantic import ValidationError

from ftlib.artifacts import Artifact
from ftlib.config import user_path
from ftlib.errors import BusyError, StorageError, TransientError
from ftlib.fingerprint import Job
from ftlib.progress import note
from ftlib.storage.files import local_errors, private_folder

A = TypeVar("A", bound=Artifact)

_ELSEWHERE = "choose another --work"

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
        record = self.folder(job) / RECORD
        with local_errors(record, elsewhere=_ELSEWHERE):
            return record.is_file()

    def touch(self, job: Job) -> None:
        """Say that a finished output is used, for whoever finds it without asking for it to be made."""
        enter(self.root)
        with exclusive(self.folder(job).with_suffix(".lock"), wait=True):
            pass

    def once(self, job: Job, kind: type[A], build: Callable[[Path], A], *, resumable: bool = False) -> A:
        """Return the job's artifact, building it at most once however many processes ask.

        `build` gets an empty folder (or, if `resumable`, what the last attempt left) and returns the record; it may
        fail or be killed at any point without anything becoming visible. Raises StorageError where a file cannot be
        read or written, TransientError where the network failed.
        """
        final = self.folder(job)
        enter(self.root)
        with exclusive(final.with_suffix(".lock"), wait=True, waiter=job.stage):
            if (done := read_record(final, kind)) is not None:
                return done
            work = final.with_suffix(".work")
            with local_errors(work, elsewhere=_ELSEWHERE):
                if work.exists() and not resumable:
                    shutil.rmtree(work)
                private_folder(work)
            started = time.monotonic()
            with _errors_of(job, work):
                record = build(work)
                if type(record) is not kind:  # it would be written, and then not be read as what was asked for
                    raise TypeError(f"{job.stage} made a {type(record).__name__}, and its record is a {kind.__name__}")
            record = record.model_copy(
                update={
                    "uri": str(final),
                    "fingerprint": job.fingerprint,
                    "seconds": round(time.monotonic() - started, 3),
                }
            )
            write_durably(work / RECORD, record.model_dump_json(indent=1).encode())
            with local_errors(final, elsewhere=_ELSEWHERE):
                if final.exists():  # a record-less folder: someone deleted artifact.json by hand
                    shutil.rmtree(final)
                work.rename(final)
            return record


def read_record(folder: Path, kind: type[A]) -> A | None:
    """Read a folder's record; None if the folder has none. Raises StorageError if it is damaged or cannot be read."""
    with local_errors(folder / RECORD, elsewhere=_ELSEWHERE):
        try:
            text = (folder / RECORD).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
    try:
        return kind.model_validate_json(text).model_copy(update={"uri": str(folder)})
    except ValidationError as error:
        raise StorageError(
            f"{folder / RECORD} is not a {kind.__name__} record ({error.error_count()} errors); "
            f"it was damaged or made by another version: delete {folder} to make it again"
        ) from error


def write_durably(path: Path, data: bytes) -> None:
    """Write a file so that after a power cut it is either absent or whole: temporary name, fsync, rename.

    Its folder is made if it is missing. Raises StorageError where it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with local_errors(path, len(data), _ELSEWHERE):
        private_folder(path.parent)
        try:
            with temporary.open("wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def exclusive(lock: Path, *, wait: bool, waiter: str = "") -> Generator[None]:
    """Hold a lock file. Raises BusyError, naming the holder, if it is taken and `wait` is false.

    A stage that waits, the `waiter`, says for whom and since when that has it. Raises StorageError where the file
    cannot be written.
    """
    with ExitStack() as held:
        with local_errors(lock, elsewhere=_ELSEWHERE):
            stream = _held(lock, held, wait=wait, waiter=waiter)
            stream.truncate(0)
            stream.write(json.dumps({"pid": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}).encode())
        yield


def _held(lock: Path, held: ExitStack, *, wait: bool, waiter: str) -> FileIO:
    """Return a lock file that is held and has its name: one that was waited for may have been deleted meanwhile."""
    while True:
        private_folder(lock.parent)
        stream = held.enter_context(lock.open("a+b", buffering=0))
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.seek(0)
            holder = _holder(stream.read())
            if not wait:
                raise BusyError(f"{lock.stem} is already running: {holder}; wait for it or stop it") from None
            if waiter:
                note(waiter, f"{lock.stem} is being made by {holder}: waiting for it")
            fcntl.flock(stream, fcntl.LOCK_EX)
        if is_named(stream, lock):
            return stream
        stream.close()


def is_named(stream: FileIO, path: Path) -> bool:
    """Say whether an open file is still the one that its path names."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(stream.fileno()), path.stat())
    return False


_entered: dict[tuple[Path, int], tuple[Path, FileIO]] = {}
_entering = Lock()
"""A process holds one lock for each work folder, whoever of its threads came first; a forked one takes its own."""


def enter(root: Path) -> None:
    """Hold the work folder until this process ends, or `leave`: nothing that it finds from now on is collected.

    Waits while a collector deletes what has no lock of its own. Raises StorageError where nothing can be written.
    """
    key = (root, os.getpid())
    with _entering, local_errors(root, elsewhere=_ELSEWHERE):
        if key in _entered and is_named(_entered[key][1], _entered[key][0]):
            return
        private_folder(users_in(root))
        with gate_of(root).open("a+b", buffering=0) as gate:
            fcntl.flock(gate, fcntl.LOCK_SH)
            path = users_in(root) / f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.lock"
            stream = path.open("x+b", buffering=0)
            fcntl.flock(stream, fcntl.LOCK_EX)
            stream.write(json.dumps({"pid": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}).encode())
        _entered[key] = path, stream


def leave(root: Path) -> None:
    """Hold the work folder no more, in a process that goes on after its run."""
    with _entering:
        if (entered := _entered.pop((root, os.getpid()), None)) is not None:
            entered[0].unlink(missing_ok=True)
            entered[1].close()


@atexit.register
def _leave_all() -> None:
    for root, process in [*_entered]:
        if process == os.getpid():
            with suppress(OSError):
                leave(root)


def users_in(root: Path) -> Path:
    """Return the folder of the locks of the processes that use a work folder."""
    return root / "users"


def gate_of(root: Path) -> Path:
    """Return the lock that a process shares while it enters; a collector holds it alone while nobody may enter."""
    return users_in(root) / "gate"


def user_cache() -> Path:
    """Return where Réglage's folder in the user's cache is, or will be. Raises StorageError where there is no home."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser().absolute() / "reglage"
    except RuntimeError as error:
        raise StorageError(f"no folder for caches: {error}; set HOME or XDG_CACHE_HOME") from error


def make_cache(folder: Path) -> Path:
    """Make a folder of the user's cache, for this user alone, and return it.

    Raises StorageError where it cannot be written.
    """
    with local_errors(folder, elsewhere="set XDG_CACHE_HOME to another folder"):
        private_folder(folder)
    return folder


def _holder(text: bytes) -> str:
    try:
        facts = json.loads(text)
        return f"process {facts['pid']} since {facts['since']}"
    except (ValueError, KeyError, TypeError):
        return "another process"


@contextmanager
def _errors_of(job: Job, folder: Path) -> Generator[None]:
    """Say in one line what the operating system refused a stage, by its own words: most often it is no full disk."""
    try:
        with local_errors(folder, elsewhere=_ELSEWHERE):
            yield
    except BrokenPipeError:
        raise  # of whoever listens to the run, not of the stage
    except (ConnectionError, TimeoutError, socket.gaierror) as error:
        if error.errno is None:
            raise
        raise TransientError(f"{job.stage}: the network failed: {error.strerror or error}; try again") from error
