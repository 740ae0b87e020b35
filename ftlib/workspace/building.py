"""One attempt at a stage, in a folder of this machine, whatever keeps its output."""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from ftlib.artifacts import Artifact
from ftlib.errors import TransientError
from ftlib.fingerprint import Job
from ftlib.storage.files import local_errors, private_folder
from ftlib.storage.user_cache import another_disk

A = TypeVar("A", bound=Artifact)


def built(job: Job, kind: type[A], build: Callable[[Path], A], work: Path, uri: str, *, resumable: bool) -> A:
    """Have a stage write its files to an empty folder, or, if it can go on, to what an attempt left; return its record.

    Raises what the stage raises, StorageError for what the system refused it, TransientError where the network failed.
    """
    with local_errors(work, elsewhere=another_disk(work)):
        if work.exists() and not resumable:
            shutil.rmtree(work)
        private_folder(work)
    started = time.monotonic()
    with _errors_of(job, work):
        record = build(work)
        if type(record) is not kind:  # it would be written, and then not be read as what was asked for
            raise TypeError(f"{job.stage} made a {type(record).__name__}, and its record is a {kind.__name__}")
    seconds = round(time.monotonic() - started, 3)
    return record.model_copy(update={"uri": uri, "fingerprint": job.fingerprint, "seconds": seconds})


@contextmanager
def _errors_of(job: Job, folder: Path) -> Generator[None]:
    """Say in one line what the operating system refused a stage, by its own words: most often it is no full disk."""
    try:
        with local_errors(folder, elsewhere=another_disk(folder)):
            yield
    except BrokenPipeError:
        raise  # of whoever listens to the run, not of the stage
    except (ConnectionError, TimeoutError, socket.gaierror) as error:
        if error.errno is None:
            raise
        raise TransientError(f"{job.stage}: the network failed: {error.strerror or error}; try again") from error
