"""Nuclear norm of the matrix of answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from ftlib.config import BatchKind
from ftlib.evaluation.metrics.base import MetricBase
from ftlib.evaluation.metrics.draws import times_drawn
from ftlib.kinds.outcomes import LabelOutcomes

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float, Int


class NuclearNorm(MetricBase):
    """How decided the model is and over how many labels its answers spread, whatever the rows' labels say.

    The sum of the singular values of the (rows, labels) matrix of probabilities, over its largest possible value, the
    square root of rows × min(rows, labels): 1 where every row has one label for certain and all labels as many rows
    (Deng et al. 2023, arXiv 2302.01094). Unlike `entropy`, a model that says the same label of everything scores badly.
    """

    kind: Literal["nuclear_norm"] = "nuclear_norm"

    reads: ClassVar[frozenset[BatchKind]] = frozenset({"labeled"})
    higher_is_better: ClassVar[bool] = True

    def compute(self, outcomes: LabelOutcomes) -> float:
        """Return the metric over all rows."""
        import numpy as np

        singular = np.linalg.svd(outcomes.probabilities.astype(np.float64), compute_uv=False)
        return float(singular.sum()) / _largest(outcomes, len(outcomes))

    def resampled(
        self, outcomes: LabelOutcomes, rows: Int[np.ndarray, "resamples rows"]
    ) -> Float[np.ndarray, " resamples"]:
        """Return `compute` of every resample."""
        import numpy as np

        answers = outcomes.probabilities.astype(np.float64)
        # The singular values are the roots of the eigenvalues of a matrix of (labels, labels), however many rows: fast,
        # and right to 1e-7, where intervals need three digits.
        drawn = times_drawn(rows, len(outcomes)).astype(np.float64)
        grams = np.stack([(times[:, None] * answers).T @ answers for times in drawn])
        squared = np.linalg.eigvalsh(grams).clip(min=0.0)
        return np.sqrt(squared).sum(axis=1) / _largest(outcomes, rows.shape[1])


def _largest(outcomes: LabelOutcomes, rows: int) -> float:
    return float(rows * min(rows, len(outcomes.labels))) ** 0.5
