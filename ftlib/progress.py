"""How far a stage is, for whoever listens: the terminal's bars, Prefect's run page, or nobody.

Stages call `emit`; a front end calls `listen`. Nothing in a result depends on it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

NOTE = "note"
"""The unit of a sign that is words."""
BYTES = "bytes"
"""The unit of what is sent or fetched."""

_listeners: list[Callable[[Progress], None]] = []


@dataclass(frozen=True)
class Progress:
    """One sign of life. `done == total` ends the bar."""

    stage: str
    """For example `train tune` or `ingest docs`; one bar each."""
    done: int
    total: int
    unit: str
    facts: dict[str, float] = field(default_factory=dict[str, float])
    """Numbers worth showing beside the bar, for example loss and samples_per_second."""
    text: str = ""
    """What a note says."""


def emit(stage: str, done: int, total: int, unit: str, **facts: float) -> None:
    """Tell all listeners; cheap enough for every step."""
    for listener in _listeners:
        listener(Progress(stage, done, total, unit, facts))


def note(stage: str, text: str) -> None:
    """Tell all listeners in words what a user should know and need not do anything about."""
    for listener in _listeners:
        listener(Progress(stage, 1, 1, NOTE, text=text))


@contextmanager
def listen(listener: Callable[[Progress], None]) -> Generator[None]:
    """Send every `emit` of this process to `listener` while the block runs, from whatever thread emits."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)
