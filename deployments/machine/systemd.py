"""A user's systemd unit that keeps an installation up, and what systemd is told while it starts and stops."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from deployments.machine.state import StateFolder

SOCKET = "NOTIFY_SOCKET"
"""The variable that systemd puts the address into that it listens on."""


def unit(folder: StateFolder, words: Sequence[str], environment: dict[str, str]) -> str:
    """Return a unit that runs `reglage up` with these words below a home, with these variables."""
    command = [sys.executable, "-P", "-m", "ftlib", "up", *words, "--home", str(folder.home)]
    variables = "".join(f"Environment={_quoted(f'{name}={value}')}\n" for name, value in environment.items())
    return f"""\
[Unit]
Description=Reglage at {_plain(str(folder.home))}

[Service]
Type=notify
ExecStart={" ".join(_quoted(word).replace("$", "$$") for word in command)}
WorkingDirectory={_plain(str(folder.home))}
{variables}# Secrets, as NAME=value lines; no error where there is no such file.
EnvironmentFile=-{_plain(str(folder.secrets))}
# Only `reglage up` is asked to end: it stops runs, worker and server in order. What is left then is killed.
KillMode=mixed
TimeoutStartSec=600
TimeoutStopSec=180
Restart=on-failure
RestartSec=10

[Install]
WantedBy=default.target
"""


def complaints(file: Path) -> str | None:
    """Return what `systemd-analyze verify` says against a unit's file; None where there is no such program."""
    program = shutil.which("systemd-analyze")
    if program is None:
        return None
    with tempfile.TemporaryDirectory() as folder:  # it wants one, even where nobody has logged in
        environment = {"XDG_RUNTIME_DIR": folder, **os.environ}
        command = [program, "--user", "verify", str(file.absolute())]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    about = [line for line in done.stderr.splitlines() if file.name in line]  # it also talks of other units
    return "; ".join(about) or (done.stderr.strip() if done.returncode else "")


def notify(word: str) -> None:
    """Tell systemd READY=1 or STOPPING=1; nothing where it did not start this process."""
    address = os.environ.get(SOCKET)
    if not address:
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.connect(f"\0{address[1:]}" if address.startswith("@") else address)
        sender.send(word.encode())


def _plain(text: str) -> str:
    """Return a text in which systemd reads no specifier; it ends at the line."""
    return text.replace("%", "%%").replace("\n", " ")


def _quoted(text: str) -> str:
    """Return one word as systemd reads them."""
    quoted = _plain(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{quoted}"' if quoted != text or not text or any(c in text for c in " '\t;") else text
