"""What one rank has begun to write of a checkpoint, and what came of it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from threading import Event

import torch

from ftlib.errors import ReglageError, first_line


@dataclass
class Writing:
    """What one rank has begun to write, of a step or of the best weights: one at a time of each."""

    name: str = ""
    part: Future[None] | None = None
    whole: Future[None] | None = None
    """On the first rank alone: until the manifest is written."""
    host: dict[str, torch.Tensor] = field(default_factory=dict[str, torch.Tensor])
    """Copies, whose memory serves again."""
    turn: int = 0
    """When it was begun, among all of the attempt; the same on all ranks."""

    abandoned: Event = field(default_factory=Event)
    """Set where the first rank is not to wait for the others' parts any more."""

    @property
    def jobs(self) -> list[Future[None]]:
        """Return what this rank does of it."""
        return [job for job in (self.part, self.whole) if job is not None]

    @property
    def has_failed(self) -> bool:
        """Say whether something of it came to nothing."""
        return any(job.done() and job.exception() is not None for job in self.jobs)


def problem_of(job: Future[None]) -> str | None:
    """Wait for a job; return in one line what it failed with."""
    error = job.exception()
    if error is None:
        return None
    return str(error) if isinstance(error, ReglageError) else f"the checkpoint was not written: {first_line(error)}"


def done_now(work: Callable[[], None]) -> Future[None]:
    """Do work now, and return it as what was done."""
    done = Future[None]()
    try:
        done.set_result(work())
    except Exception as error:
        done.set_exception(error)
    return done
