"""Rewards in a process of their own: a function that hangs, prints, or eats the interpreter's lock harms no training.

A thread cannot be ended, and a regular expression that goes astray holds the interpreter's lock, so that not even a
timer would be read: only the kernel ends it. The process lives on from call to call; requests and replies are lines of
JSON, never pickles.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import cast

from ftlib.training.rewards.base import Answered, RewardBase, refused

_START = 120.0
"""Seconds for the process to start and to import the reward's function."""
_GRACE = 5.0
"""Seconds after the time limit in which the process should have ended itself."""

_RUNNING: dict[str, _Process] = {}
"""The process of each reward that was asked here, by the reward's JSON."""


def grade_apart(reward: RewardBase, answered: Sequence[Answered]) -> object:
    """Return what a reward's function gives, from its process. Raises RecipeError if it raises, or does not return."""
    key = reward.model_dump_json()
    process = _RUNNING.get(key)
    if process is None or not process.lives():
        process = _RUNNING[key] = _Process(reward)
    try:
        return process.ask(answered)
    except BaseException:
        process.end()
        del _RUNNING[key]
        raise


class _Process:
    """One process, which grades by one reward."""

    def __init__(self, reward: RewardBase) -> None:
        """Start it, and wait until it has imported what it needs. Raises RecipeError if it cannot."""
        self._reward = reward
        # -P: what lies in the current folder is no installed package.
        known = os.pathsep.join(place for place in sys.path if place)
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(Path(__file__).with_name("child.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": known},
        )
        self._unread = b""
        try:
            kind = {"module": type(reward).__module__, "class": type(reward).__qualname__}
            self._say({**kind, "fields": reward.model_dump(mode="json"), "seconds": reward.seconds})
            self._reply(_START, f"needed more than {_START:g} s to start")
        except BaseException:
            self.end()
            raise

    def lives(self) -> bool:
        return self._process.poll() is None

    def ask(self, answered: Sequence[Answered]) -> object:
        self._say([asdict(one) for one in answered])
        return self._reply(
            self._reward.seconds + _GRACE,
            f"ran longer than its time limit of {self._reward.seconds:g} s for {len(answered)} answers",
        )

    def end(self) -> None:
        """End the process, and what it started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
        self._process.wait()

    def _say(self, value: object) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended, and the reply's end says how
            self._process.stdin.write(json.dumps(value).encode() + b"\n")
            self._process.stdin.flush()

    def _reply(self, seconds: float, too_long: str) -> object:
        """Return what the process answers. Raises RecipeError if it raised, or if it ended without an answer."""
        assert self._process.stdout is not None
        pipe, until = self._process.stdout.fileno(), time.monotonic() + seconds
        while b"\n" not in self._unread:
            if not select.select([pipe], [], [], max(0.0, until - time.monotonic()))[0]:
                raise refused(self._reward, too_long)
            read = os.read(pipe, 1 << 20)
            if not read:
                code = self._process.wait()
                raise refused(self._reward, too_long if code == -signal.SIGALRM else f"ended its process with {code}")
            self._unread += read
        line, _, self._unread = self._unread.partition(b"\n")
        reply = cast("dict[str, object]", json.loads(line))
        if "error" in reply:
            raise refused(self._reward, str(reply["error"]))
        return reply["grades"]


@atexit.register
def end_all() -> None:
    """End the processes that this one started."""
    while _RUNNING:
        _RUNNING.popitem()[1].end()
