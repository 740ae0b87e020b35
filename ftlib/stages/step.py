"""One call of a stage in a run, and runs as generators of them: what comes after what, whoever calls the stages.

A generator yields each step and is sent the artifact that its stage made. Where that is not made yet, as for a plan, it
is sent None, and what follows from it is a step without a job.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from ftlib.fingerprint import Job
from ftlib.workspace import Workspace

J = TypeVar("J", bound=Job)
A = TypeVar("A")
T = TypeVar("T")


@dataclass(frozen=True)
class Step:
    """One call of a stage."""

    stage: Callable[[Any, Workspace], Any]
    """The stage's function in `ftlib.stages`."""
    job: Job | None
    """What it is asked; None while something that the job is made of is not made."""
    which: str = ""
    """Which one, where a run has several of a stage: `tune`, or `home validation`."""
    on_ray: bool = False
    """Whether the recipe has it done by Ray workers."""
    candidates: int = 0
    """How many it names or measures; before they are named, at most."""

    @property
    def label(self) -> str:
        """Return `train tune`, for example: no other step of the run is called so, unless it is asked again."""
        return f"{self.stage.__name__} {self.which}".rstrip()


Steps: TypeAlias = Generator[Step, Any, T]
"""Steps in order, and what they come to: None where a step was answered with None."""


def step(
    stage: Callable[[J, Workspace], A], job: J | None, which: str = "", *, on_ray: bool = False, candidates: int = 0
) -> Steps[A | None]:
    """Yield one step, and return what its stage made, or None. Call it with `yield from`."""
    return (yield Step(stage, job, which, on_ray, candidates))


def walk(steps: Steps[T], answer: Callable[[Step], object]) -> T:
    """Answer every step with what `answer` returns for it; return what the steps come to."""
    try:
        asked = next(steps)
        while True:
            asked = steps.send(answer(asked))
    except StopIteration as end:
        return end.value
