"""Whether a policy has come to prefer the preferred answer, against what it was."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from ftlib.config import BatchKind
from ftlib.evaluation.metrics.base import ShareOfRight
from ftlib.kinds.outcomes import PreferenceOutcomes

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Bool


class RewardAccuracy(ShareOfRight):
    """Share of pairs whose chosen answer has the larger implicit reward, log p - log p(reference); between 0 and 1.

    Of the reference itself it is 0, since all of its rewards are.
    """

    kind: Literal["reward_accuracy"] = "reward_accuracy"

    reads: ClassVar[frozenset[BatchKind]] = frozenset({"preferences"})
    higher_is_better: ClassVar[bool] = True
    reads_reference: ClassVar[bool] = True

    def right(self, outcomes: PreferenceOutcomes) -> Bool[np.ndarray, " rows"]:
        """Return which pairs are right."""
        rewards = outcomes.rewards()
        return rewards[:, 0] > rewards[:, 1]
