"""What wrong answers cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from ftlib.config import BatchKind
from ftlib.evaluation.metrics.base import MeanOverRows
from ftlib.kinds.outcomes import LabelOutcomes

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float


class Cost(MeanOverRows):
    """Mean cost of an answer: 0 if it is right, 1 if it is wrong, `dear` if it misses the label that is dear."""

    kind: Literal["acme_cost"] = "acme_cost"
    label: str
    """The label that must not be missed."""
    dear: float = Field(default=10.0, gt=0.0)
    """What it costs to miss it."""

    reads: ClassVar[frozenset[BatchKind]] = frozenset({"labeled"})
    higher_is_better: ClassVar[bool] = False

    def per_row(self, outcomes: LabelOutcomes) -> Float[np.ndarray, " rows"]:
        """Return every row's own."""
        import numpy as np

        missed = np.array([outcomes.labels[gold] == self.label for gold in outcomes.gold])
        return (outcomes.gold != outcomes.predicted) * np.where(missed, self.dear, 1.0)
