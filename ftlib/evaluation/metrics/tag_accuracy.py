"""Share of words whose tag is right."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from typing_extensions import override

from ftlib.config import BatchKind
from ftlib.evaluation.metrics.base import MetricBase
from ftlib.evaluation.metrics.draws import share
from ftlib.kinds.outcomes import TaggedOutcomes

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float, Int


class TagAccuracy(MetricBase):
    """Accuracy over words. Most words are `O`, so saying nothing scores high: read `entity_f1` first."""

    kind: Literal["tag_accuracy"] = "tag_accuracy"

    reads: ClassVar[frozenset[BatchKind]] = frozenset({"tagged"})
    higher_is_better: ClassVar[bool] = True

    @property
    @override
    def undefined_where(self) -> str:
        return "the rows hold no word"

    def resampled(
        self, outcomes: TaggedOutcomes, rows: Int[np.ndarray, "resamples rows"]
    ) -> Float[np.ndarray, " resamples"]:
        """Return `compute` of every resample."""
        right, words = (side[rows].sum(axis=1) for side in outcomes.words)
        return share(right, words)
