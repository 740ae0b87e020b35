"""How much likelier a policy finds the preferred answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from typing_extensions import override

from ftlib.config import BatchKind
from ftlib.evaluation.metrics.base import MeanOverRows
from ftlib.kinds.outcomes import PreferenceOutcomes

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float


class PreferenceMargin(MeanOverRows):
    """Mean of log p(chosen) - log p(rejected), in nats. Its rise from a phase's start is DPO's margin of rewards.

    It has no upper bound: a policy that finds both answers less and less likely may still raise it.
    """

    kind: Literal["preference_margin"] = "preference_margin"
    per_token: bool = False
    """Whether log-probabilities are divided by the tokens of the answer; the name then ends with `:per_token`."""

    reads: ClassVar[frozenset[BatchKind]] = frozenset({"preferences"})
    higher_is_better: ClassVar[bool] = True

    @property
    @override
    def name(self) -> str:
        return f"{super().name}{':per_token' if self.per_token else ''}"

    def per_row(self, outcomes: PreferenceOutcomes) -> Float[np.ndarray, " rows"]:
        """Return every row's own."""
        return outcomes.log_ratio(per_token=self.per_token)
