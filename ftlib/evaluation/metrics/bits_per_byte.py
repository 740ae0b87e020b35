"""Bits per byte of text."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from typing_extensions import override

from ftlib.config import BatchKind
from ftlib.evaluation.metrics.base import MetricBase
from ftlib.evaluation.metrics.draws import share
from ftlib.kinds.outcomes import TokenOutcomes

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float, Int


class BitsPerByte(MetricBase):
    """Bits that the model needs for a byte of UTF-8 text: comparable between tokenizers, as perplexity is not.

    The bytes are those of the decoded targets, special tokens aside.
    """

    kind: Literal["bits_per_byte"] = "bits_per_byte"

    reads: ClassVar[frozenset[BatchKind]] = frozenset({"tokens", "completions"})
    higher_is_better: ClassVar[bool] = False

    @property
    @override
    def undefined_where(self) -> str:
        return "what is to be predicted spells no byte"

    def resampled(
        self, outcomes: TokenOutcomes, rows: Int[np.ndarray, "resamples rows"]
    ) -> Float[np.ndarray, " resamples"]:
        """Return `compute` of every resample."""
        import numpy as np

        return share(outcomes.nll[rows].sum(axis=1), outcomes.target_bytes[rows].sum(axis=1)) / np.log(2.0)
