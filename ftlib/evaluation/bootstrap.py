"""Confidence intervals by resampling rows (Efron 1979), paired over models.

Rows are drawn with replacement, the metric is computed on each draw, and the interval runs between the percentiles of
the results. The draws depend on the seed and the number of rows only, so all models measured on the same rows see the
same draws: a difference between two of them is paired, which tells 1.5 points apart where two separate intervals on
2,000 rows overlap.

A metric may be undefined: `compute` is then nan, and so is a draw that lacks what it needs, say one without a row of a
rare label. Such draws are left out: an interval is of the draws that define the metric, of a difference for both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ftlib.errors import DataError
from ftlib.evaluation.measured import Estimate
from ftlib.evaluation.metrics.base import MetricBase
from ftlib.kinds.outcomes import Outcomes

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float, Int

BLOCK = 1 << 22
"""Row numbers drawn at a time: 32 MiB, however many rows and resamples there are."""


@dataclass(frozen=True)
class Resampling:
    """How intervals are made."""

    resamples: int
    confidence: float
    seed: int

    def draws(self, rows: int) -> Iterator[Int[np.ndarray, "block rows"]]:
        """Yield all resamples' row numbers in blocks; the same for the same seed and number of rows."""
        import numpy as np

        random = np.random.default_rng([self.seed, rows])
        size = max(1, BLOCK // rows)
        for first in range(0, self.resamples, size):
            yield random.integers(0, rows, (min(size, self.resamples - first), rows))

    def interval(
        self, value: float, resampled: Float[np.ndarray, " resamples"], undefined: str = "it has no value"
    ) -> Estimate:
        """Return a value with the percentiles of its resamples; where it is nan, that it is `undefined`, and why."""
        import numpy as np

        values = defined(resampled)
        if np.isnan(value) or not len(values):
            return Estimate(value=None, low=None, high=None, undefined=undefined)
        tail = (1.0 - self.confidence) / 2.0
        low, high = np.quantile(values, [tail, 1.0 - tail])
        return Estimate(value=value, low=float(low), high=float(high))


def defined(resampled: Float[np.ndarray, " resamples"]) -> Float[np.ndarray, " some"]:
    """Return the resamples on which the metric is defined."""
    import numpy as np

    return resampled[~np.isnan(resampled)]


def estimates(outcomes: Outcomes, metrics: Sequence[MetricBase], resampling: Resampling) -> dict[str, Estimate]:
    """Return every metric with its interval, by the metric's name."""
    import numpy as np

    if not len(outcomes):
        nothing = Estimate(value=None, low=None, high=None, undefined="there are no rows")
        return {metric.name: nothing for metric in metrics}
    parts: dict[str, list[Float[np.ndarray, " block"]]] = {metric.name: [] for metric in metrics}
    for rows in resampling.draws(len(outcomes)):
        for metric in metrics:
            parts[metric.name].append(metric.resampled(outcomes, rows))
    return {
        metric.name: resampling.interval(
            metric.compute(outcomes), np.concatenate(parts[metric.name]), metric.undefined_where
        )
        for metric in metrics
    }


def resamples(metric: MetricBase, outcomes: Outcomes, resampling: Resampling) -> Float[np.ndarray, " resamples"]:
    """Return the metric of every resample; of two models on the same rows, resample by resample comparable."""
    import numpy as np

    return np.concatenate([metric.resampled(outcomes, rows) for rows in resampling.draws(len(outcomes))])


def difference(metric: MetricBase, ours: Outcomes, theirs: Outcomes, resampling: Resampling) -> Estimate:
    """Return `metric(ours) - metric(theirs)` with its paired interval; zero outside it is a difference that is real.

    Raises DataError if the two were not measured on the same rows in the same order.
    """
    drawn = paired_resamples(metric, ours, theirs, resampling)
    return resampling.interval(metric.compute(ours) - metric.compute(theirs), drawn, metric.undefined_where)


def paired_resamples(
    metric: MetricBase, ours: Outcomes, theirs: Outcomes, resampling: Resampling
) -> Float[np.ndarray, " resamples"]:
    """Return `metric(ours) - metric(theirs)` of every resample. Raises DataError for other rows or another order."""
    if ours.row_ids != theirs.row_ids:
        raise DataError(
            f"{metric.name}: a paired difference needs the same rows; got {len(ours)} and {len(theirs)}, "
            f"{len(set(ours.row_ids) & set(theirs.row_ids))} of them shared"
        )
    return resamples(metric, ours, resampling) - resamples(metric, theirs, resampling)
