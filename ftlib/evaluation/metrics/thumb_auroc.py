"""Whether a policy has come to prefer wanted answers, against what it was."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from typing_extensions import override

from ftlib.config import BatchKind
from ftlib.evaluation.metrics.auroc import areas
from ftlib.evaluation.metrics.base import MetricBase
from ftlib.evaluation.metrics.draws import times_drawn
from ftlib.kinds.outcomes import JudgedOutcomes

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float, Int


class ThumbAUROC(MetricBase):
    """Chance that a wanted answer has a larger implicit reward, log p - log p(reference), than an unwanted one.

    Ties count half; of the reference itself it is about 0.5.
    """

    kind: Literal["thumb_auroc"] = "thumb_auroc"

    reads: ClassVar[frozenset[BatchKind]] = frozenset({"judged"})
    higher_is_better: ClassVar[bool] = True
    reads_reference: ClassVar[bool] = True

    @property
    @override
    def undefined_where(self) -> str:
        return "all rows are wanted, or none"

    def resampled(
        self, outcomes: JudgedOutcomes, rows: Int[np.ndarray, "resamples rows"]
    ) -> Float[np.ndarray, " resamples"]:
        """Return `compute` of every resample, from how often each row was drawn."""
        import numpy as np

        wins, defined = areas(outcomes.rewards(), outcomes.wanted, times_drawn(rows, len(outcomes)))
        return np.where(defined > 0, wins, np.nan)
