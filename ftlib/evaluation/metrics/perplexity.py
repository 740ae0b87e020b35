"""Perplexity per token."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from typing_extensions import override

from ftlib.config import BatchKind
from ftlib.evaluation.metrics.base import MetricBase
from ftlib.evaluation.metrics.draws import share
from ftlib.kinds.outcomes import Outcomes

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float, Int


class Perplexity(MetricBase):
    """exp(sum of negative log-likelihoods / number of tokens), over the corpus and not a mean over batches.

    Of hidden tokens it is that of the tokens that are hidden, given all that are not.
    """

    kind: Literal["perplexity"] = "perplexity"

    reads: ClassVar[frozenset[BatchKind]] = frozenset({"tokens", "completions", "masked"})
    higher_is_better: ClassVar[bool] = False

    @property
    @override
    def undefined_where(self) -> str:
        return "the rows have no token to predict"

    def resampled(self, outcomes: Outcomes, rows: Int[np.ndarray, "resamples rows"]) -> Float[np.ndarray, " resamples"]:
        """Return `compute` of every resample."""
        import numpy as np

        return np.exp(share(outcomes.nll[rows].sum(axis=1), outcomes.targets[rows].sum(axis=1)))
