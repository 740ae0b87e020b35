"""Whether an answer is as long as it should be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field, model_validator

from ftlib.training.rewards.base import Answered, RewardBase, RewardModel


class Length(RewardBase):
    """1 for an answer of `least` to `most`; outside, less the farther it is.

    n/least below, 2 - n/most above, never under 0: a group of answers that are all too long still tells the better one.
    """

    kind: Literal["length"] = "length"
    least: int = Field(default=0, ge=0)
    """The shortest that is worth 1."""
    most: int = Field(gt=0)
    """The longest that is worth 1; one of twice as much is worth 0."""
    unit: Literal["characters", "words"] = "characters"
    """What is counted: Unicode characters without white space at the ends, or what white space divides."""

    @model_validator(mode="after")
    def _in_order(self) -> Length:
        if self.least > self.most:
            raise ValueError(f"least is {self.least} and most {self.most}; least must not be above it")
        return self

    def grade(self, answered: Sequence[Answered], models: Mapping[str, RewardModel]) -> list[float]:
        """Return a number from 0 to 1 for each."""
        del models
        return [self._worth(self._count(one.answer)) for one in answered]

    def _count(self, answer: str) -> int:
        return len(answer.split()) if self.unit == "words" else len(answer.strip())

    def _worth(self, count: int) -> float:
        if count < self.least:
            return count / self.least
        return 1.0 if count <= self.most else max(0.0, 2.0 - count / self.most)
