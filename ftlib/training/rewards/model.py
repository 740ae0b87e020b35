"""What a reward model says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from ftlib.config import Name
from ftlib.training.rewards.base import Answered, RewardBase, RewardModel


class Model(RewardBase):
    """The one output of a reward model for the prompt and the answer; docs/reward.md says how one is trained."""

    kind: Literal["model"] = "model"
    model: Name = "reward"
    """The phase's companion that is asked."""

    @property
    def companions(self) -> tuple[str, ...]:
        """Return the companion's name."""
        return (self.model,)

    def grade(self, answered: Sequence[Answered], models: Mapping[str, RewardModel]) -> list[float]:
        """Return the model's scores."""
        return models[self.model].scores(answered)
