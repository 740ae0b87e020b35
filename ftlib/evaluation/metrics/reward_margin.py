"""By how much a policy has come to prefer the preferred answer, against what it was."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from ftlib.config import BatchKind
from ftlib.evaluation.metrics.base import MeanOverRows
from ftlib.kinds.outcomes import PreferenceOutcomes

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float


class RewardMargin(MeanOverRows):
    """Mean difference of the implicit rewards, log p - log p(reference), of both answers, in nats: at a beta of 1."""

    kind: Literal["reward_margin"] = "reward_margin"

    reads: ClassVar[frozenset[BatchKind]] = frozenset({"preferences"})
    higher_is_better: ClassVar[bool] = True
    reads_reference: ClassVar[bool] = True

    def per_row(self, outcomes: PreferenceOutcomes) -> Float[np.ndarray, " rows"]:
        """Return every row's own."""
        rewards = outcomes.rewards()
        return rewards[:, 0] - rewards[:, 1]
