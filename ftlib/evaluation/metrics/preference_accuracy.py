"""Whether a policy finds the preferred answer the likelier one."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from typing_extensions import override

from ftlib.config import BatchKind
from ftlib.evaluation.metrics.base import ShareOfRight
from ftlib.kinds.outcomes import PreferenceOutcomes

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Bool


class PreferenceAccuracy(ShareOfRight):
    """Share of pairs whose chosen answer is more probable than the rejected one; between 0 and 1.

    Of whole answers a long one is less probable than a short one of the same kind: `per_token` compares means.
    """

    kind: Literal["preference_accuracy"] = "preference_accuracy"
    per_token: bool = False
    """Whether log-probabilities are divided by the tokens of the answer; the name then ends with `:per_token`."""

    reads: ClassVar[frozenset[BatchKind]] = frozenset({"preferences"})
    higher_is_better: ClassVar[bool] = True

    @property
    @override
    def name(self) -> str:
        return f"{super().name}{':per_token' if self.per_token else ''}"

    def right(self, outcomes: PreferenceOutcomes) -> Bool[np.ndarray, " rows"]:
        """Return which pairs are right."""
        return outcomes.log_ratio(per_token=self.per_token) > 0
