"""Who uses a work folder: a lock for each process, which the collector of the folder looks at."""

from __future__ import annotations

import atexit
import fcntl
import json
import os
import socket
import time
import uuid
from contextlib import suppress
from io import FileIO
from pathlib import Path
from threading import Lock

from ftlib.storage.files import local_errors
from ftlib.storage.locks import flocked, is_named
from ftlib.storage.user_cache import another_disk

_entered: dict[tuple[Path, int], tuple[Path, FileIO]] = {}
_entering = Lock()
"""A process holds one lock for each work folder, whoever of its threads came first; a forked one takes its own."""


def enter(root: Path) -> None:
    """Hold the work folder until this process ends, or `leave`: nothing that it finds from now on is collected.

    Waits while a collector deletes what has no lock of its own. Raises StorageError where nothing can be written.
    """
    key = (root, os.getpid())
    with _entering, local_errors(root, elsewhere=another_disk(root)):
        if key in _entered and is_named(_entered[key][1], _entered[key][0]):
            return
        with flocked(gate_of(root), shared=True):
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
