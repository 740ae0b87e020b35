"""A program of `reglage up`, and the process that runs it now."""

from __future__ import annotations

import signal
import subprocess
from dataclasses import dataclass

from deployments.machine.processes import Process
from deployments.machine.programs import Program


@dataclass
class Child:
    """A program that is to run, and the process that runs it."""

    program: Program
    process: Process | None = None
    popen: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    deaths: int = 0
    """In a row."""
    again: float = 0.0
    """When it may be started next."""
    answered: bool = False

    def lives(self) -> bool:
        """Say whether its process runs."""
        if self.popen is not None:
            self.popen.poll()  # else it stays a zombie
        return self.process is not None and self.process.lives()

    @property
    def pid(self) -> int:
        """Return its number; -1 where it never ran."""
        return -1 if self.process is None else self.process.pid

    def ended(self) -> str:
        """Say how it ended, where that is known."""
        code = None if self.popen is None else self.popen.poll()
        if code is None:
            return "is gone"
        return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
