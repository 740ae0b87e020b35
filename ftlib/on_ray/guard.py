"""A process beside a local Ray that ends what is left of it when the run is gone, however it went.

Ray's own processes share their parent's fate, but a worker that the raylet has only begun to start looks for it for a
minute. Run as a script, without this package: nothing is imported but the standard library.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path

_SCANS, _PAUSE_SECONDS = 6, 0.3
"""Looks in a row that must find nothing after a kill: the raylet may have been starting a process when it died."""
_PATIENCE_SECONDS = 20.0
"""A process that the kernel cannot end (it waits for a disk that is gone) must not keep the run from ending."""


@contextlib.contextmanager
def guarded(folder: str) -> Generator[None]:
    """End every process that has a file below `folder` open, once the block ends or this process does.

    This process is spared. Nothing else tells Ray's processes from others: the title that one takes overwrites its
    command line and some of its environment, but its log stays open.
    """
    if not Path("/proc/self/cmdline").exists():
        yield
        return
    # Its end of the pipe is closed by the kernel, also after SIGKILL; a Ctrl-C in the terminal must not end it first.
    command = [sys.executable, "-I", "-S", __file__, folder]
    guard = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        yield
    finally:
        guard.communicate(b"ended")  # Ray has shut down: one look is enough


def _main(folder: str) -> None:
    spared = {os.getpid(), os.getppid()}
    scans = 1 if sys.stdin.buffer.read() else _SCANS
    empty, deadline = 0, time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < deadline:
        left = _users_of(folder) - spared
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        empty = 0 if left else empty + 1
        if empty == scans:
            return
        time.sleep(_PAUSE_SECONDS)


def _users_of(folder: str) -> set[int]:
    """Return the processes with a file below the folder open, or with its path in the command line."""
    real = os.path.realpath(folder)
    pids: set[int] = set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended meanwhile, or is another user's
            if _has_open(f"{real}/", process) or f"{folder}/".encode() in process.joinpath("cmdline").read_bytes():
                pids.add(int(process.name))
    return pids


def _has_open(prefix: str, process: Path) -> bool:
    for descriptor in process.joinpath("fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            if os.readlink(descriptor).startswith(prefix):
                return True
    return False


if __name__ == "__main__":
    _main(sys.argv[1])
