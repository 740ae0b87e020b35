"""Points of the straight line between the two ends (WiSE-FT), on a grid that may be refined."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field
from typing_extensions import override

from ftlib.config import Fraction
from ftlib.merging.candidates import Candidate
from ftlib.merging.interpolation.ends import Ends, Score, TwoEnds
from ftlib.merging.methods import Lerp

FINEST = 0.01
"""Refinement puts no point nearer to another than this: their difference would be noise."""


class WiseFT(TwoEnds):
    """theta_alpha = (1 - alpha) theta0 + alpha theta1 (Wortsman et al. 2022, arXiv 2109.01903).

    theta0 is the exact start of the last phase, head included; theta1 its end.
    """

    kind: Literal["wise_ft"] = "wise_ft"
    alphas: tuple[Fraction, ...] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    """Points between theta0 (0) and theta1 (1); both ends are always measured, listed or not."""
    refine: int = Field(default=0, ge=0, le=20)
    """At most so many more points, one after the other, where the curve of `select.by` peaks."""
    modules: dict[str, Fraction] = {}
    """Tensor-name patterns (`classifier.*`) with an alpha of their own, at every point but the two ends."""
    depth: tuple[Fraction, ...] = ()
    """Factors of alpha from the embeddings to the head, linear between: [0, 1] moves the first layers least."""

    @property
    @override
    def adaptive(self) -> bool:
        return self.refine > 0

    @override
    def patterns(self) -> tuple[str, ...]:
        return tuple(self.modules)

    @property
    @override
    def by_layer(self) -> bool:
        return bool(self.depth)

    @property
    @override
    def scales_adapter(self) -> bool:
        return True

    @property
    @override
    def is_path(self) -> bool:
        return True

    @property
    @override
    def places(self) -> tuple[float, ...]:
        return tuple(sorted({0.0, *self.alphas, 1.0}))

    @override
    def points(self, ends: Ends) -> tuple[Candidate, ...]:
        """Return one candidate per alpha, ascending and distinct; with scores, those of the refined grid.

        The ends are always among them, listed or not: what an interpolation is worth is measured against them, and
        `constrained` selection needs them.
        """
        points = {alpha: self._point(ends, alpha) for alpha in self.places}
        scores = ends.scores
        for _ in range(self.refine):
            measured = {alpha: scores[point.digest()] for alpha, point in points.items() if point.digest() in scores}
            if len(measured) < len(points) or (alpha := next_alpha(measured)) is None:
                break
            point = self._point(ends, alpha)
            if point.digest() not in scores and is_settled(measured):
                break
            points[alpha] = point
        return tuple(point for _, point in sorted(points.items()))

    @override
    def count(self) -> int:
        return len(self.places) + self.refine

    def _point(self, ends: Ends, alpha: float) -> Candidate:
        point = Candidate.between(ends.start, ends.end, alpha)
        if alpha in (0.0, 1.0):
            return point
        return point.model_copy(update={"merge": Lerp(alpha=alpha, modules=self.modules, depth=self.depth)})


def is_settled(scores: Mapping[float, Score]) -> bool:
    """Say whether the peak is known as well as the rows can tell.

    That is so where neither neighbour of the best point can be told from it, nor would the parabola's peak be: they
    differ from it by no more than one standard error.
    """
    alphas, best, near = _peak(scores)
    at = [scores[alphas[i]] for i in near if i != best]
    if any(scores[alphas[best]].value - score.value > score.error for score in at):
        return False
    rise = 0.0
    if len(near) == 3:
        curve = [(alphas[i], scores[alphas[i]].value) for i in near]
        rise = _lagrange(curve, _vertex(curve, alphas[best])) - scores[alphas[best]].value
    return rise <= max(score.error for score in at)


def next_alpha(scores: Mapping[float, Score]) -> float | None:
    """Return where to look next for the maximum of a curve; None where no gap beside the best point is left.

    It is the vertex of the parabola through the best point and its neighbours, or the middle of the wider gap.
    """
    alphas, _, near = _peak(scores)
    left, right = max(((alphas[i], alphas[i + 1]) for i in near[:-1]), key=lambda side: side[1] - side[0])
    proposed = [(left + right) / 2]
    if len(near) == 3:
        proposed.insert(0, _vertex([(alphas[i], scores[alphas[i]].value) for i in near], proposed[0]))
    rounded = [round(alpha, 3) for alpha in proposed]
    return next((a for a in rounded if min(abs(a - measured) for measured in alphas) >= FINEST), None)


def _peak(scores: Mapping[float, Score]) -> tuple[list[float], int, list[int]]:
    """Return the alphas in order, the place of the best, and the places of it and its neighbours."""
    alphas = sorted(scores)
    best = max(range(len(alphas)), key=lambda i: (scores[alphas[i]].value, -i))
    return alphas, best, [i for i in (best - 1, best, best + 1) if 0 <= i < len(alphas)]


def _lagrange(points: list[tuple[float, float]], x: float) -> float:
    """Return the value at x of the parabola through three points."""
    (x0, y0), (x1, y1), (x2, y2) = points
    return (
        y0 * (x - x1) * (x - x2) / ((x0 - x1) * (x0 - x2))
        + y1 * (x - x0) * (x - x2) / ((x1 - x0) * (x1 - x2))
        + y2 * (x - x0) * (x - x1) / ((x2 - x0) * (x2 - x1))
    )


def _vertex(points: list[tuple[float, float]], otherwise: float) -> float:
    (x0, y0), (x1, y1), (x2, y2) = points
    rise, fall = (x1 - x0) * (y1 - y2), (x1 - x2) * (y1 - y0)
    if rise == fall:  # a straight line has no vertex
        return otherwise
    return x1 - 0.5 * ((x1 - x0) * rise - (x1 - x2) * fall) / (rise - fall)
