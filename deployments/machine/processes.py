"""Processes of this machine: which one it is, whether it lives, what it belongs to, which ports it holds. Linux only.

A process id alone says nothing: after a crash the kernel may have given it to somebody else. So a process is known by
its id, its start time and the machine's boot; and whatever an installation starts carries `MARK` in its environment,
which children inherit, those of Ray too.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from ftlib.config import Config

MARK = "REGLAGE_UP"
"""The variable that holds the state folder of the installation that a process belongs to."""
FLOW_RUN = "PREFECT__FLOW_RUN_ID"
"""The variable that holds the id of the flow run that a process runs."""

_PROC = Path("/proc")
_LISTENS = "0A"
"""How /proc/net/tcp writes that a socket listens."""


class Process(Config):
    """A process that is found again, or is known to be gone."""

    pid: int
    """Its number, which the kernel uses again."""
    ticks: int
    """When it started, in clock ticks since the machine did."""
    boot: str
    """Which start of the machine that was."""
    since: str
    """When it was seen first: local time, with the difference to UTC."""

    def lives(self) -> bool:
        """Say whether it runs still; a zombie does not."""
        return self.boot == _boot() and _ticks(self.pid) == self.ticks

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, and never to another process that has its number by now."""
        with contextlib.suppress(ProcessLookupError):
            descriptor = os.pidfd_open(self.pid)  # from here on the number cannot change hands
            try:
                if self.lives():
                    signal.pidfd_send_signal(descriptor, number)
            finally:
                os.close(descriptor)

    def wait(self, seconds: float) -> bool:
        """Wait until it has ended, be it a child or not; say whether it has."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return True
        try:
            if not self.lives():
                return True
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            return bool(poll.poll(max(seconds, 0.0) * 1000)) or not self.lives()
        finally:
            os.close(descriptor)

    def runs_flow(self) -> bool:
        """Say whether it runs a flow, or was started by one."""
        return any(word.startswith(f"{FLOW_RUN}=") for word in _environment(self.pid))

    def descends_from(self, pids: set[int]) -> bool:
        """Say whether one of these processes is an ancestor of it."""
        pid = self.pid
        while (parent := _stat(pid, 1)) and parent > 1:
            if parent in pids:
                return True
            pid = parent
        return False


def now() -> str:
    """Return local time as states say it, to the second."""
    return time.strftime("%Y-%m-%d %H:%M:%S%z")


def process(pid: int) -> Process | None:
    """Return the process that has a number just now, or None."""
    ticks = _ticks(pid)
    return None if ticks is None else Process(pid=pid, ticks=ticks, boot=_boot(), since=now())


def marked(folder: Path) -> list[Process]:
    """Return the processes of this user that belong to the installation whose state is in a folder; never this one."""
    mark = f"{MARK}={folder}"
    return [
        found
        for pid in _mine()
        if pid != os.getpid() and mark in _environment(pid) and (found := process(pid)) is not None
    ]


def running_flows() -> dict[str, list[Process]]:
    """Return the processes of this user that run flows, or were started by one, by the id of the flow run."""
    start, found = f"{FLOW_RUN}=", dict[str, list[Process]]()
    for pid in _mine():
        for word in _environment(pid):
            if word.startswith(start) and (one := process(pid)) is not None:
                found.setdefault(word[len(start) :], []).append(one)
    return found


def ours() -> dict[int, str]:
    """Return this user's processes that are Réglage's, Prefect's or Ray's, each with its command line."""
    words = ("reglage", "ftlib", "prefect", "deployments.machine", "tensorboard", "raylet", "gcs_server", "ray::")
    lines = {pid: command(pid) for pid in _mine() if pid != os.getpid()}
    return {
        pid: line
        for pid, line in lines.items()
        if any(word in line for word in words) or any(v.startswith(f"{MARK}=") for v in _environment(pid))
    }


def end(processes: Iterable[Process], grace: float) -> list[Process]:
    """Ask processes to end, and end those that have not after `grace` seconds; return the ones that had to be ended."""
    asked = list(processes)
    for one in asked:
        one.send(signal.SIGTERM)
    deadline = time.monotonic() + grace
    late = [one for one in asked if not one.wait(deadline - time.monotonic())]
    kill(late)
    return late


def kill(processes: Iterable[Process]) -> None:
    """End processes without asking, and wait until they are gone."""
    asked = list(processes)
    for one in asked:
        one.send(signal.SIGKILL)
    for one in asked:
        one.wait(5.0)


def command(pid: int) -> str:
    """Return a process's command line in one line of at most 80 characters, or its name where it hides that."""
    with contextlib.suppress(OSError):
        words = (_PROC / str(pid) / "cmdline").read_bytes().decode(errors="replace").split("\0")
        if line := " ".join(" ".join(words).split()):  # `python -c` has a whole program there
            return line if len(line) <= 80 else f"{line[:79]}…"
    with contextlib.suppress(OSError):
        return (_PROC / str(pid) / "comm").read_text().strip()
    return "unknown"


def holder(port: int) -> str:
    """Say who listens on a port, as far as this user may know."""
    for address, number, inode in _listening():
        if number == port:
            for pid in _mine():
                if inode in _sockets(pid):
                    return f"process {pid} ({command(pid)}) on {address}"
    return "another user's process, or a program in another network"


def listens(processes: Iterable[int]) -> list[tuple[int, str, int]]:
    """Return (process id, address, port) of all that processes listen on."""
    sockets = {inode: pid for pid in processes for inode in _sockets(pid)}
    return [(sockets[inode], address, port) for address, port, inode in _listening() if inode in sockets]


def _listening() -> Iterator[tuple[str, int, str]]:
    """Yield address, port and inode of every TCP socket that listens."""
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in (_PROC / "net" / name).read_text().splitlines()[1:]:
                words = line.split()
                if words[3] == _LISTENS:
                    address, _, port = words[1].rpartition(":")
                    yield _address(address), int(port, 16), words[9]


def _address(word: str) -> str:
    """Return the address that /proc/net/tcp writes as words of four bytes in the machine's order."""
    import ipaddress
    import sys

    raw = bytes.fromhex(word)
    if sys.byteorder == "little":
        raw = b"".join(raw[start : start + 4][::-1] for start in range(0, len(raw), 4))
    address = ipaddress.ip_address(raw)
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)


def _sockets(pid: int) -> set[str]:
    """Return the inodes of a process's sockets."""
    found: set[str] = set()
    with contextlib.suppress(OSError):
        for descriptor in (_PROC / str(pid) / "fd").iterdir():
            with contextlib.suppress(OSError):
                target = os.readlink(descriptor)
                if target.startswith("socket:["):
                    found.add(target[8:-1])
    return found


def _mine() -> list[int]:
    """Return the numbers of this user's processes."""
    pids: list[int] = []
    for entry in _PROC.iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                if entry.stat().st_uid == os.getuid():
                    pids.append(int(entry.name))
    return pids


def _environment(pid: int) -> list[str]:
    """Return what a process was given as its environment, none where it hides that or is gone."""
    try:
        return (_PROC / str(pid) / "environ").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []


def _ticks(pid: int) -> int | None:
    """Return when a process started; None if there is none, or only its zombie."""
    return _stat(pid, 19)


def _stat(pid: int, field: int) -> int | None:
    """Return a field of /proc/PID/stat, counted from the state; None if there is no process, or only its zombie."""
    try:
        line = (_PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return None
    words = line.rpartition(")")[2].split()  # the name before it may hold anything
    return None if words[0] in "ZX" else int(words[field])


def _boot() -> str:
    return (_PROC / "sys/kernel/random/boot_id").read_text().strip()
