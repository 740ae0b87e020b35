"""F1 of every row, averaged."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from ftlib.config import BatchKind
from ftlib.evaluation.metrics.base import MeanOverRows
from ftlib.kinds.outcomes import MultiLabelOutcomes

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float


class SamplesF1(MeanOverRows):
    """The mean over rows of the F1 of a row's labels; 1 for a row without labels that gets none.

    scikit-learn's `average="samples"` with `zero_division=1`: its default counts such a row as all wrong.
    """

    kind: Literal["samples_f1"] = "samples_f1"

    reads: ClassVar[frozenset[BatchKind]] = frozenset({"multi_labeled"})
    higher_is_better: ClassVar[bool] = True

    def per_row(self, outcomes: MultiLabelOutcomes) -> Float[np.ndarray, " rows"]:
        """Return every row's own."""
        import numpy as np

        hits = (outcomes.gold & outcomes.predicted).sum(axis=1)
        named = outcomes.gold.sum(axis=1) + outcomes.predicted.sum(axis=1)
        return np.where(named > 0, 2 * hits / named.clip(min=1), 1.0)
