"""Several rewards in one, and the union of all rewards: a sum is a reward of rewards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Literal

from pydantic import Field
from typing_extensions import override

from ftlib.config import Config
from ftlib.extensions import Open
from ftlib.training.rewards.base import Answered, RewardBase, RewardModel
from ftlib.training.rewards.exact_match import ExactMatch
from ftlib.training.rewards.grading import graded
from ftlib.training.rewards.json_schema import JsonSchema
from ftlib.training.rewards.length import Length
from ftlib.training.rewards.model import Model
from ftlib.training.rewards.python import Python
from ftlib.training.rewards.regex import Regex


class Part(Config):
    """One reward of a sum."""

    weight: float = 1.0
    """What its numbers are multiplied by; below 0 it is a price."""
    reward: Reward
    """Any reward; another sum too."""


class WeightedSum(RewardBase):
    """The sum of other rewards' numbers, each times its weight."""

    kind: Literal["weighted_sum"] = "weighted_sum"
    parts: tuple[Part, ...] = Field(min_length=1)
    """What is added up."""

    @property
    def companions(self) -> tuple[str, ...]:
        """Return those of all parts."""
        return tuple(dict.fromkeys(name for part in self._rewards() for name in part.companions))

    @property
    @override
    def reads_own(self) -> bool:
        return any(part.reads_own for part in self._rewards())

    def misfits(self) -> Sequence[str]:
        """Return those of all parts."""
        return [line for part in self._rewards() for line in part.misfits()]

    def grade(self, answered: Sequence[Answered], models: Mapping[str, RewardModel]) -> list[float]:
        """Return the sum for each. A part that gives no numbers is named, and bounded by its own time limit."""
        parts = [graded(part, answered, models) for part in self._rewards()]
        weights = [part.weight for part in self.parts]
        return [sum(w * value for w, value in zip(weights, row, strict=True)) for row in zip(*parts, strict=True)]

    def _rewards(self) -> Iterator[RewardBase]:
        return (part.reward for part in self.parts)


Reward = Annotated[
    Model | ExactMatch | Regex | JsonSchema | Length | Python | WeightedSum,
    Open("reglage.reward"),
]

Part.model_rebuild()
WeightedSum.model_rebuild()
