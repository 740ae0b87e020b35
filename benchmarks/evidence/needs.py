"""What a row's runs read: made by the row's own commands, before its first run."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def make(commands: Sequence[str]) -> str | None:
    """Run each command that this process has not run yet; return what failed in a line, None where all is there.

    A command leaves alone what it made before.
    """
    return next((failed for command in commands if (failed := _make(command))), None)


@cache
def _make(command: str) -> str | None:
    program, *words = shlex.split(command)
    line = [sys.executable, *words] if program == "python" else [sys.executable, "-m", program, *words]
    ended = subprocess.run(line, cwd=ROOT, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if not ended.returncode:
        return None
    told = ended.stdout.strip().splitlines() or ["it said nothing"]
    return f"{command}: ended with {ended.returncode}: {told[-1]}"
