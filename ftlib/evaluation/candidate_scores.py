"""What a rule compares: one number per candidate, with paired resamples, so that differences have an error."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ftlib.errors import DataError, RecipeError
from ftlib.evaluation.bootstrap import Resampling, resamples
from ftlib.evaluation.evaluation import Evaluation
from ftlib.evaluation.measured import Estimate, EvalReport, Measured
from ftlib.evaluation.metrics.base import MetricBase
from ftlib.evaluation.significance import bootstrap_p, holm
from ftlib.evaluation.smoothing import Curve, smooth
from ftlib.kinds.outcomes import Outcomes
from ftlib.merging.candidates import Candidate
from ftlib.wording import counted

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float

_DIGITS = 12
_ROUNDING = 1e-12  # 0.65 - 0.63 is more than 0.02 in floating point


@dataclass(frozen=True)
class Scores:
    """One metric, or a weighted sum of several, of every candidate in their order; theta0 first, theta1 last."""

    name: str
    shown: tuple[float, ...]
    """In the metric's own unit and direction; of a sum, the merits."""
    merits: Float[np.ndarray, " candidates"]
    """The same with higher always better."""
    resampled: Float[np.ndarray, "candidates resamples"]
    """Merits of the same resamples of the rows for all candidates."""
    confidence: float
    summed: bool = False
    """Whether `name` is a sum, and `shown` its value."""
    higher_is_better: bool = True
    """Of what is `shown`."""

    def said(self, i: int) -> str:
        """Return the name with the number of one candidate."""
        return f"{self.name} {'= ' if self.summed else ''}{self.shown[i]:.4f}"

    def smoothed(self, alphas: Sequence[float]) -> Scores:
        """Return the same scores, ordered by what is expected at each candidate instead of what was measured."""
        return replace(self, merits=self._curve(alphas, alphas).expected.round(_DIGITS))

    def expected(self, alphas: Sequence[float], at: Sequence[float]) -> tuple[Estimate, ...]:
        """Return what is expected at the alphas `at`, with intervals and as shown; candidates lie at `alphas`."""
        from scipy.stats import norm

        curve, reach = self._curve(alphas, at), float(norm.ppf(0.5 + self.confidence / 2))
        sign = 1.0 if self.higher_is_better else -1.0
        values, margins = sign * curve.expected, reach * curve.error
        return tuple(
            Estimate(value=float(value), low=float(value - margin), high=float(value + margin))
            for value, margin in zip(values, margins, strict=True)
        )

    def _curve(self, alphas: Sequence[float], at: Sequence[float]) -> Curve:
        import numpy as np

        return smooth(alphas, self.merits, np.cov(self.resampled), at)

    def best(self, among: Sequence[int]) -> int:
        """Return the best; of equals the first, which is the one nearest to theta0."""
        return min(among, key=lambda i: (-self.merits[i], i))

    def largest_drop(self, i: int, reference: int) -> float:
        """Return how much worse `i` than the reference may be: the upper bound, one-sided, at `confidence`."""
        import numpy as np

        drops = self.resampled[reference] - self.resampled[i]
        return float(np.quantile(drops, self.confidence))

    def not_worse(self, i: int, reference: int, margin: float) -> bool:
        """Say whether `i` is not inferior by more than `margin`, beyond reasonable doubt."""
        return self.largest_drop(i, reference) <= margin + _ROUNDING

    def within_one_standard_error(self, i: int, best: int) -> bool:
        """Say whether `i` is worse than the best by at most one standard error of their difference."""
        drop = float(self.merits[best] - self.merits[i])
        return drop <= float((self.resampled[best] - self.resampled[i]).std()) + _ROUNDING

    def share(self, i: int, low: int, high: int) -> float:
        """Return how far `i` is from `low` to `high`: 0 there and 1 here, also where both are equally good."""
        whole = float(self.merits[high] - self.merits[low])
        return (
            float(self.merits[i] - self.merits[low]) / whole
            if whole > _ROUNDING
            else float(self.merits[i] >= self.merits[high])
        )

    def better_than_both_ends(self) -> list[int]:
        """Return the candidates between that beat both ends significantly, by Holm's adjustment over all of them.

        Beating both is an intersection-union test: its p-value is the larger of the two.
        """
        ends = (0, len(self.shown) - 1)
        inner = range(1, len(self.shown) - 1)
        adjusted = holm([max(self._p_not_better(i, end) for end in ends) for i in inner])
        return [i for i, p in zip(inner, adjusted, strict=True) if p <= 1.0 - self.confidence]

    def _p_not_better(self, i: int, end: int) -> float:
        gained = self.merits[i] > self.merits[end]
        return bootstrap_p(self.resampled[i] - self.resampled[end]) if gained else 1.0


def scores(
    terms: Mapping[str, float],
    members: Sequence[Candidate],
    reports: Sequence[EvalReport],
    evaluations: Mapping[str, Evaluation],
    load: Callable[[Measured], Outcomes],
    seed: int,
) -> Scores:
    """Return the sum of `evaluation/metric` times its weight; a metric whose lower is better counts negatively.

    Resamples on which a metric is undefined for one of the candidates are left out. Raises RecipeError if a metric was
    not measured for every candidate, DataError if it is undefined for one, StorageError if a table is gone.
    """
    import numpy as np

    measured = {path: _cells(path, members, reports, evaluations) for path in terms}
    origin = {path: path.partition("/")[0] for path in terms}
    count = min(evaluations[name].resamples for name in origin.values())
    merits, resampled = np.zeros(len(members)), np.zeros((len(members), count))
    weights: dict[str, float] = {}
    shown: tuple[float, ...] = ()
    for path, (metric, cells) in measured.items():
        weights[path] = signed = terms[path] if metric.higher_is_better else -terms[path]
        shown = tuple(_value(path, metric, cell) for cell in cells)
        merits += signed * np.array(shown)
        # Draws depend on seed and rows: two evaluations with as many rows must not share them, or they look related.
        draws = Resampling(count, evaluations[origin[path]].confidence, seed + list(evaluations).index(origin[path]))
        for i, cell in enumerate(cells if len(members) > 1 else ()):
            resampled[i] += signed * resamples(metric, load(cell), draws)
    resampled = resampled[:, ~np.isnan(resampled).any(axis=0)]
    if not resampled.shape[1]:
        raise DataError(
            f"select: {' and '.join(terms)}: no resample of the rows defines it for every candidate; add rows"
        )
    confidence = evaluations[next(iter(origin.values()))].confidence
    if len(terms) == 1:
        path = next(iter(terms))
        better = measured[path][0].higher_is_better
        return Scores(path, shown, merits, resampled, confidence, higher_is_better=better)
    return Scores(_words(weights), tuple(merits.tolist()), merits, resampled, confidence, summed=True)


def _value(path: str, metric: MetricBase, cell: Measured) -> float:
    estimate = cell.metrics[metric.name]
    if estimate.value is None:
        raise DataError(
            f"select: {path!r} is undefined for {cell.candidate} on the {counted(cell.rows, f'{cell.split} row')} of "
            f"evaluation {cell.evaluation!r}: {estimate.undefined}; add such rows, or choose by another metric"
        )
    return estimate.value


def _words(weights: Mapping[str, float]) -> str:
    """Return the sum as it is added up, each metric with its sign: `(accuracy - 0.5 × log_loss)`."""
    terms = [
        f"{'-' if weight < 0 else '+'} {path if abs(weight) == 1.0 else f'{abs(weight):g} × {path}'}"
        for path, weight in weights.items()
    ]
    first = terms[0].removeprefix("+ ").replace("- ", "-", 1)
    return f"({' '.join([first, *terms[1:]])})"


def _cells(
    path: str, members: Sequence[Candidate], reports: Sequence[EvalReport], evaluations: Mapping[str, Evaluation]
) -> tuple[MetricBase, list[Measured]]:
    """Return a rule's metric and every member's measurement of it. Raises RecipeError if one was not measured."""
    name, _, metric_name = path.partition("/")
    metrics = evaluations[name].metrics if name in evaluations else ()
    metric = next((metric for metric in metrics if metric.name == metric_name), None)
    cells = {
        cell.candidate: cell
        for report in reports
        for cell in report.measured
        if cell.evaluation == name and metric_name in cell.metrics
    }
    missing = [member.name for member in members if member.name not in cells]
    if metric is None or missing:
        raise RecipeError(
            f"select: {path!r} was not measured for {', '.join(missing) or 'any candidate'}; "
            "name an evaluation and one of its metrics"
        )
    return metric, [cells[member.name] for member in members]
