"""Mean negative log-likelihood of what is right."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from ftlib.config import BatchKind
from ftlib.evaluation.metrics.base import MeanOverRows
from ftlib.evaluation.metrics.label_counts import OF_LABELS, LabelTable
from ftlib.kinds.outcomes import ComparedOutcomes

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float


class LogLoss(MeanOverRows):
    """Mean negative log-likelihood, in nats: over rows, and where a row may have any labels, over every yes and no.

    Taken from the logits in float64. scikit-learn's `log_loss` agrees until it clips: it reads probabilities, where
    float32 ends at 1e-7, and so never sees a confident error cost more than 16 nats.
    """

    kind: Literal["log_loss"] = "log_loss"

    reads: ClassVar[frozenset[BatchKind]] = frozenset({*OF_LABELS, "compared"})
    higher_is_better: ClassVar[bool] = False

    def per_row(self, outcomes: LabelTable | ComparedOutcomes) -> Float[np.ndarray, " rows"]:
        """Return every row's own."""
        return outcomes.nll / outcomes.targets
