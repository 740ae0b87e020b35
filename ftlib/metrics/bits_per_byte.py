"""Bits per byte of text."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from ftlib.config import LANGUAGE, BatchKind
from ftlib.metrics.base import MetricBase
from ftlib.outcomes import TokenOutcomes

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float, Int


class BitsPerByte(MetricBase):
    """Bits that the model needs for a byte of UTF-8 text: comparable between tokenizers, as perplexity is not.

    The bytes are those of the decoded targets, special tokens aside.
    """

    kind: Literal["bits_per_byte"] = "bits_per_byte"

    reads: ClassVar[frozenset[BatchKind]] = LANGUAGE
    higher_is_better: ClassVar[bool] = False

    def compute(self, outcomes: TokenOutcomes) -> float:
        """Return the metric over all rows."""
        import numpy as np

        return float(outcomes.nll.sum() / (np.log(2.0) * max(1, outcomes.target_bytes.sum())))

    def resampled(
        self, outcomes: TokenOutcomes, rows: Int[np.ndarray, "resamples rows"]
    ) -> Float[np.ndarray, " resamples"]:
        """Return `compute` of every resample."""
        import numpy as np

        return outcomes.nll[rows].sum(axis=1) / (np.log(2.0) * outcomes.target_bytes[rows].sum(axis=1).clip(min=1))
