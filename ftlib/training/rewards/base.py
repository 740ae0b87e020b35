"""What all rewards have in common: answers in, a finite number for each out, and one line where there is none."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, cast, runtime_checkable

from pydantic import Field

from ftlib.config import Config
from ftlib.errors import RecipeError
from ftlib.wording import some


@dataclass(frozen=True)
class Answered:
    """What a model wrote after a prompt."""

    prompt: str
    """What was asked, as `ftlib.data.prompts` says: without prefix, separator and template."""
    answer: str
    """Its text, without special tokens."""
    reference: str | None = None
    """The row's own answer; None where the row is a prompt alone."""
    ended: bool = True
    """Whether the model came to an end by itself; False: it was cut at the most tokens it may write."""


@runtime_checkable
class RewardModel(Protocol):
    """A frozen model that is asked what an answer is worth (`ftlib.training.rewards.asked`)."""

    def scores(self, answered: Sequence[Answered]) -> list[float]:
        """Return a number for each: its one output, without a unit; only differences for one prompt mean something."""
        ...


class RewardBase(Config, ABC):
    """What an answer is worth; higher is better. A frozen value, so that it is part of the phase's fingerprint."""

    bounded: ClassVar[bool] = False
    """Whether a call may run for ever: it is then made in a process of its own, which its time limit ends."""

    @property
    def companions(self) -> tuple[str, ...]:
        """Return the names of the frozen models that it asks, as the phase's `companions` have them."""
        return ()

    @property
    def reads_own(self) -> bool:
        """Say whether it compares with a row's own answer, so that rows of prompts alone have nothing for it."""
        return False

    @property
    def seconds(self) -> float:
        """Return what one call may take, where it is `bounded`."""
        return math.inf

    @property
    def called(self) -> str:
        """Return how messages and curves name it."""
        return str(type(self).model_fields["kind"].default)

    def misfits(self) -> Sequence[str]:
        """Return what of it cannot work on this machine, a line each: found before anything is trained."""
        return ()

    @abstractmethod
    def grade(self, answered: Sequence[Answered], models: Mapping[str, RewardModel]) -> list[float]:
        """Return a number for each; ask by `graded`, which says in one line what it raises, and what are no numbers."""


class Bounded(RewardBase):
    """A reward whose call may run for ever."""

    time_limit: float = Field(default=10.0, gt=0.0, le=3600.0)
    """Seconds that one call may take, which grades all answers of a step's rows; then its process is ended."""

    bounded: ClassVar[bool] = True

    @property
    def seconds(self) -> float:
        """Return the time limit."""
        return self.time_limit


def checked(reward: RewardBase, grades: object, rows: int) -> list[float]:
    """Return what a reward gave as floats. Raises RecipeError unless it is a finite number for each row."""
    if not isinstance(grades, list):
        raise refused(reward, f"returned {_shown(grades)}, where a list of {rows} numbers is needed")
    values = cast("list[object]", grades)
    if len(values) != rows:
        raise refused(reward, f"returned {len(values)} numbers for {rows} answers; each needs one")
    wrong = [i for i, value in enumerate(values) if not _is_number(value)]
    if wrong:
        which = f"for answer {some([str(i) for i in wrong], 3)} of {rows}"
        raise refused(reward, f"returned {_shown(values[wrong[0]])} {which}; each needs a finite number")
    return [float(cast("float", value)) for value in values]


def refused(reward: RewardBase, reason: str) -> RecipeError:
    """Return the error for a reward that gave no numbers."""
    return RecipeError(f"reward {reward.called}: it {reason}; repair it, or choose another reward")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _shown(value: object) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."
