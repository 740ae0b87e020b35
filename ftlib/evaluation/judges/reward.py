"""The better of two answers is the one with the higher reward: of a reward model, or of a checker."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from ftlib.evaluation.judges.base import Cost, JudgeBase, Pair, Verdict
from ftlib.evaluation.reward_models import AsksReward, models_of, weights_of
from ftlib.training.rewards.base import Answered
from ftlib.training.rewards.grading import graded


class ByReward(AsksReward, JudgeBase):
    """Compares what two answers are worth. It does not see them together, so their order says nothing to it."""

    kind: Literal["reward"] = "reward"
    tie_within: float = Field(default=0.0, ge=0.0)
    """Rewards that differ by no more are a tie."""

    swaps: ClassVar[bool] = False

    @override
    def identity(self) -> str:
        return f"{super().identity()} {weights_of(self.models)}"

    @override
    def verdicts(self, pairs: Sequence[Pair]) -> tuple[list[Verdict], Cost]:
        """Return a verdict for each pair. Raises RecipeError, ModelError as the reward does."""
        begun = time.monotonic()
        answered = [Answered(pair.prompt, text, pair.reference) for pair in pairs for text in (pair.first, pair.second)]
        grades = graded(self.reward, answered, models_of(self.models))
        verdicts: list[Verdict] = [self._verdict(*both) for both in zip(grades[::2], grades[1::2], strict=True)]
        return verdicts, Cost(seconds=time.monotonic() - begun)

    def _verdict(self, first: float, second: float) -> Verdict:
        if abs(first - second) <= self.tie_within:
            return "tie"
        return "first" if first > second else "second"
