"""Points between the two ends with an alpha of its own for each third of the layers (HMA)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field, model_validator
from typing_extensions import override

from ftlib.config import Fraction
from ftlib.merging.candidates import Candidate
from ftlib.merging.interpolation.ends import Ends, TwoEnds
from ftlib.merging.methods import Blocks as BlocksKernel

Alphas = tuple[float, float, float]
"""Of the first, the middle and the last third of the layers."""


class Blocks(TwoEnds):
    """An alpha for each third of the layers, all with one mean (HMA, Lin et al. 2024, arXiv 2309.06256).

    First the straight line is measured. Around its best inner point by `select.by`, or around `mean`, the three alphas
    are searched one coordinate at a time: the first block's against the middle's, then the last one's, up and down by
    `step`, which is halved when neither has helped. Their mean stays, so what is gained is no greater step from theta0.
    """

    least_layers: ClassVar[int] = BlocksKernel.least_layers

    kind: Literal["blocks"] = "blocks"
    alphas: tuple[Fraction, ...] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    """Points of the straight line; both ends are always measured, listed or not."""
    mean: float | None = Field(default=None, gt=0.0, lt=1.0)
    """The mean of the three alphas; null: the best inner point of the line."""
    step: float = Field(default=0.2, ge=0.02, le=0.5)
    """How far an alpha is moved at first."""
    tries: int = Field(default=8, ge=1, le=30)
    """At most so many candidates beside those of the line: with more, the alphas fit the rows that choose them."""

    @model_validator(mode="after")
    def _has_centre(self) -> Blocks:
        if self.mean is None and not any(0.0 < alpha < 1.0 for alpha in self.alphas):
            raise ValueError(
                "no alpha lies between 0 and 1 for the search to begin at; name one in alphas, or give mean"
            )
        return self

    @property
    @override
    def adaptive(self) -> bool:
        return True

    @property
    @override
    def scales_adapter(self) -> bool:
        return True

    @property
    @override
    def places(self) -> tuple[float, ...]:
        return tuple(sorted({0.0, *self.alphas, *([] if self.mean is None else [self.mean]), 1.0}))

    @override
    def points(self, ends: Ends) -> tuple[Candidate, ...]:
        """Return the line, ascending, and behind its inner points what was tried of three alphas so far."""
        first, *inner, last = (Candidate.between(ends.start, ends.end, alpha) for alpha in self.places)
        return (first, *inner, *self._tried(ends, inner), last)

    @override
    def count(self) -> int:
        return len(self.places) + self.tries

    def _tried(self, ends: Ends, inner: list[Candidate]) -> list[Candidate]:
        """Walk the search again with what is known, as far as the first candidate that is not measured yet."""
        values = {digest: score.value for digest, score in ends.scores.items()}
        if not inner or any(point.digest() not in values for point in inner):
            return []
        centre = self.mean
        if centre is None:
            best = max(inner, key=lambda point: values[point.digest()])  # of equals the first, nearest to theta0
            centre = best.alpha or 0.0
        at: Alphas = (centre, centre, centre)
        most = values[self._point(ends, at).digest()]
        seen, tried = {at}, list[Candidate]()
        step = self.step
        while len(tried) < self.tries and step >= _FINEST:
            helped = False
            for coordinate in (0, 2):
                for moved in _moves(at, coordinate, step):
                    if moved in seen or len(tried) == self.tries:
                        continue
                    seen.add(moved)
                    tried.append(self._point(ends, moved))
                    if (value := values.get(tried[-1].digest())) is None:
                        return tried
                    if value > most:
                        at, most, helped = moved, value, True
                        break
            step = step if helped else step / 2
        return tried

    @staticmethod
    def _point(ends: Ends, alphas: Alphas) -> Candidate:
        point = Candidate.between(ends.start, ends.end, alphas[0])
        if alphas[0] == alphas[1] == alphas[2]:  # the very candidate of wise_ft
            return point
        name = f"alphas={','.join(f'{alpha:g}' for alpha in alphas)}"
        return point.model_copy(update={"name": name, "merge": BlocksKernel(alphas=alphas)})


_FINEST = 0.01
"""Steps below this change nothing that rows could tell."""


def _moves(at: Alphas, coordinate: int, step: float) -> Iterator[Alphas]:
    """Yield the alphas with one of them moved up and down, and the middle one as far the other way."""
    for by in (step, -step):
        moved = [*at]
        moved[coordinate], moved[1] = round(at[coordinate] + by, 6), round(at[1] - by, 6)
        if all(0.0 <= alpha <= 1.0 for alpha in moved):
            yield (moved[0], moved[1], moved[2])
