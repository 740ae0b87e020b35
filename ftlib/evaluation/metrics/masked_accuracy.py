"""How many hidden tokens are told."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from typing_extensions import override

from ftlib.config import BatchKind
from ftlib.evaluation.metrics.base import MetricBase
from ftlib.evaluation.metrics.draws import share
from ftlib.kinds.outcomes import MaskedOutcomes

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float, Int


class MaskedAccuracy(MetricBase):
    """Share of hidden tokens that are the model's most probable ones, over the corpus and not a mean over rows."""

    kind: Literal["masked_accuracy"] = "masked_accuracy"

    reads: ClassVar[frozenset[BatchKind]] = frozenset({"masked"})
    higher_is_better: ClassVar[bool] = True

    @property
    @override
    def undefined_where(self) -> str:
        return "nothing is hidden in the rows"

    def resampled(
        self, outcomes: MaskedOutcomes, rows: Int[np.ndarray, "resamples rows"]
    ) -> Float[np.ndarray, " resamples"]:
        """Return `compute` of every resample."""
        return share(outcomes.right[rows].sum(axis=1), outcomes.targets[rows].sum(axis=1))
