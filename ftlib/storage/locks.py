"""Locks between the processes of one machine, and of all that share a file system: the kernel frees them on kill -9."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from io import FileIO
from pathlib import Path

from ftlib.errors import BusyError
from ftlib.progress import note
from ftlib.storage.files import local_errors, private_folder
from ftlib.storage.user_cache import another_disk


@contextmanager
def exclusive(lock: Path, *, wait: bool, waiter: str = "") -> Generator[None]:
    """Hold a lock file. Raises BusyError, naming the holder, if it is taken and `wait` is false.

    A stage that waits, the `waiter`, says for whom and since when that has it. Raises StorageError where the file
    cannot be written.
    """
    with ExitStack() as held:
        with local_errors(lock, elsewhere=another_disk(lock)):
            stream = held.enter_context(_held(lock, wait=wait, waiter=waiter))
            stream.truncate(0)
            stream.write(json.dumps({"pid": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}).encode())
        yield


def _held(lock: Path, *, wait: bool, waiter: str) -> FileIO:
    try:
        return flocked(lock, wait=False)
    except BlockingIOError:
        holder = _holder(lock)
        if not wait:
            raise BusyError(f"{lock.stem} is already running: {holder}; wait for it or stop it") from None
        if waiter:
            note(waiter, f"{lock.stem} is being made by {holder}: waiting for it")
        return flocked(lock)


def flocked(lock: Path, *, shared: bool = False, wait: bool = True) -> FileIO:
    """Return a lock's file, made if it is missing, which is held until it is closed; `shared` with others who say so.

    It has its name: one that was waited for may have been deleted meanwhile, and says nothing to who comes later.
    Raises BlockingIOError if it is taken and `wait` is false.
    """
    how = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
    while True:
        private_folder(lock.parent)
        with ExitStack() as opened:
            stream = opened.enter_context(lock.open("a+b", buffering=0))
            fcntl.flock(stream, how)
            if is_named(stream, lock):
                opened.pop_all()
                return stream


def is_named(stream: FileIO, path: Path) -> bool:
    """Say whether an open file is still the one that its path names."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(stream.fileno()), path.stat())
    return False


def _holder(lock: Path) -> str:
    try:
        facts = json.loads(lock.read_bytes())
        return f"process {facts['pid']} since {facts['since']}"
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return "another process"
