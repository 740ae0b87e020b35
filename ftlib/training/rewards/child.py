"""The process in which a reward is asked. `process.py` starts it as a script, and nothing imports it."""

from __future__ import annotations

import importlib
import json
import math
import os
import signal
import sys
from typing import Any

from ftlib.errors import ReglageError, first_line
from ftlib.training.rewards.base import Answered, RewardBase


def main() -> None:
    """Read the reward, then answers, a line each, until there are no more; reply with a line to each."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a function prints is no reply
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process, without asking the interpreter
    order = json.loads(sys.stdin.readline())
    reward: RewardBase = getattr(importlib.import_module(order["module"]), order["class"])(**order["fields"])
    _reply(replies, _started(reward))
    for line in sys.stdin:
        answered = [Answered(**one) for one in json.loads(line)]
        _alarm(order["seconds"])
        reply = _graded(reward, answered)
        _alarm(0)
        _reply(replies, reply)


def _alarm(seconds: float) -> None:
    """Let the kernel end this process in so many seconds, whatever it does then; 0: not any more."""
    signal.setitimer(signal.ITIMER_REAL, seconds if math.isfinite(seconds) else 0.0)


def _reply(replies: Any, value: dict[str, object]) -> None:
    replies.write(json.dumps(value) + "\n")
    replies.flush()


def _started(reward: RewardBase) -> dict[str, object]:
    misfits = reward.misfits()
    return {"error": f"cannot be asked: {'; '.join(misfits)}"} if misfits else {"grades": []}


def _graded(reward: RewardBase, answered: list[Answered]) -> dict[str, object]:
    try:
        return {"grades": _plain(reward.grade(answered, {}))}
    except ReglageError as error:
        return {"error": str(error)}
    except (Exception, SystemExit) as error:
        return {"error": f"raised {type(error).__name__}: {first_line(error)}"}


def _plain(grades: object) -> object:
    """Return what JSON can say: numbers of numpy and torch as Python's, and anything else as it is shown."""
    if isinstance(grades, str | bytes | dict):
        return repr(grades)
    try:
        return [_number(grade) for grade in grades]  # pyright: ignore[reportGeneralTypeIssues]
    except TypeError:
        return grades if grades is None or isinstance(grades, float | int) else repr(grades)


def _number(grade: Any) -> object:
    """Return a number as Python's own; a NaN stays one, as JSON of Python writes it."""
    if grade is None or isinstance(grade, str):
        return grade
    try:
        return float(grade)
    except (TypeError, ValueError):
        return repr(grade)


if __name__ == "__main__":
    main()
