"""How much likelier a policy finds wanted answers than others."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from typing_extensions import override

from ftlib.config import BatchKind
from ftlib.evaluation.metrics.base import MetricBase
from ftlib.evaluation.metrics.draws import share
from ftlib.kinds.outcomes import JudgedOutcomes

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float, Int


class ThumbMargin(MetricBase):
    """Mean log p(answer) of wanted answers minus that of unwanted ones, in nats.

    What the answers are counts in it too: look at its rise from a phase's start, which is KTO's margin of rewards.
    """

    kind: Literal["thumb_margin"] = "thumb_margin"

    reads: ClassVar[frozenset[BatchKind]] = frozenset({"judged"})
    higher_is_better: ClassVar[bool] = True

    @property
    @override
    def undefined_where(self) -> str:
        return "all rows are wanted, or none"

    def resampled(
        self, outcomes: JudgedOutcomes, rows: Int[np.ndarray, "resamples rows"]
    ) -> Float[np.ndarray, " resamples"]:
        """Return `compute` of every resample."""
        log_probs, wanted = -outcomes.nll[rows], outcomes.wanted[rows]
        mean_wanted, mean_other = (share((log_probs * side).sum(1), side.sum(1)) for side in (wanted, ~wanted))
        return mean_wanted - mean_other
