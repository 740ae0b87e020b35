"""What the answers that a model writes are worth."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar, Literal

from typing_extensions import override

from ftlib.config import BatchKind, Name
from ftlib.evaluation.metrics.base import MeanOverRows
from ftlib.evaluation.reward_models import AsksReward, models_of, weights_of
from ftlib.kinds.outcomes import CompletionOutcomes
from ftlib.training.rewards.base import Answered
from ftlib.training.rewards.grading import graded

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float


class MeanReward(AsksReward, MeanOverRows):
    """Mean of a reward over what the model writes, in the reward's own unit.

    A model that learnt from the same reward may have found what pleases it and nothing else: measure another beside it.
    """

    kind: Literal["reward"] = "reward"
    called: Name | None = None
    """What results, rules and gates call it behind `reward:`, where there are several."""

    reads: ClassVar[frozenset[BatchKind]] = frozenset({"completions"})
    reads_writing: ClassVar[bool] = True
    reads_prompts: ClassVar[bool] = True
    higher_is_better: ClassVar[bool] = True

    @property
    @override
    def name(self) -> str:
        return "reward" if self.called is None else f"reward:{self.called}"

    @property
    @override
    def reads_own(self) -> bool:
        return self.reward.reads_own

    def per_row(self, outcomes: CompletionOutcomes) -> Float[np.ndarray, " rows"]:
        """Return what each row's answer is worth.

        Raises RecipeError for a reward that gives no numbers, ModelError for a reward model that cannot be asked.
        """
        import numpy as np

        texts = zip(*outcomes.said(), outcomes.references, strict=True)
        answered = tuple(Answered(prompt, answer, gold or None, ended) for prompt, answer, ended, gold in texts)
        return np.array(_grades(self.model_dump_json(), answered))

    @override
    def signature(self) -> str | None:
        """Return the digest of each reward model's weights, by its name."""
        return weights_of(self.models) or None


@lru_cache(maxsize=16)
def _grades(metric: str, answered: tuple[Answered, ...]) -> tuple[float, ...]:
    """Return the grades by a metric's JSON: intervals and slices ask for the same rows again and again."""
    asked = MeanReward.model_validate_json(metric)
    return tuple(graded(asked.reward, answered, models_of(asked.models)))
