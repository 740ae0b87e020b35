"""Sums of squares and products over resamples, from which R2 and the correlations follow."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from typing_extensions import override

from ftlib.config import BatchKind
from ftlib.evaluation.metrics.base import MetricBase
from ftlib.evaluation.metrics.draws import share

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float


class OfScores(MetricBase):
    """A metric of scores that no row has by itself; higher is better."""

    reads: ClassVar[frozenset[BatchKind]] = frozenset({"scored"})
    higher_is_better: ClassVar[bool] = True


class Correlation(OfScores):
    """A correlation of answers and scores; undefined where either are all the same."""

    @property
    @override
    def undefined_where(self) -> str:
        return "all rows have the same score, or get the same answer"


def centred(values: Float[np.ndarray, "resamples rows"]) -> Float[np.ndarray, "resamples rows"]:
    """Return every resample's values without their mean; exactly 0 where they are all the same."""
    # The mean of equal numbers is not always that number, and what was left would be taken for variance.
    from_first = values - values[:, :1]
    return from_first - from_first.mean(axis=1, keepdims=True)


def correlation(
    x: Float[np.ndarray, "resamples rows"], y: Float[np.ndarray, "resamples rows"]
) -> Float[np.ndarray, " resamples"]:
    """Return Pearson's correlation of every resample; nan where one side is constant."""
    import numpy as np

    x, y = centred(x), centred(y)
    scale = np.sqrt((x * x).sum(axis=1)) * np.sqrt((y * y).sum(axis=1))
    return share((x * y).sum(axis=1), scale)
