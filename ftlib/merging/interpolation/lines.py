"""Points between the two ends where shallow layers move less than deep ones (LiNeS)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from ftlib.config import Fraction
from ftlib.merging.candidates import Candidate
from ftlib.merging.interpolation.ends import Ends, TwoEnds
from ftlib.merging.methods import Lines as LinesKernel


class Lines(TwoEnds):
    """theta0 + alpha s (theta1 - theta0), s = g + (1 - g) (l - 1) / (L - 1) for layer l of L (LiNeS, Wang et al. 2025).

    arXiv 2410.17146. Shallow layers hold what a model can do in general, so they go back further to theta0. Tensors
    outside the layers get g. With g = 1 it is WiSE-FT.
    """

    least_layers: ClassVar[int] = LinesKernel.least_layers

    kind: Literal["lines"] = "lines"
    alphas: tuple[Fraction, ...] = (0.5, 1.0)
    """Points between theta0 (0) and theta1 (1), each tried with every `shallow`; both ends are always measured."""
    shallow: tuple[Fraction, ...] = Field(default=(0.0, 0.25, 0.5, 0.75, 1.0), min_length=1)
    """Values of g, the first layer's scale: 0 leaves it at theta0, 1 moves all layers alike."""

    @property
    @override
    def scales_adapter(self) -> bool:
        return True

    @property
    @override
    def places(self) -> tuple[float, ...]:
        return tuple(sorted({0.0, *(self.alphas if 1.0 in self.shallow else ()), 1.0}))

    @override
    def points(self, ends: Ends) -> tuple[Candidate, ...]:
        """Return theta0, one candidate for each alpha and g, both ascending, and theta1."""
        return (
            Candidate.between(ends.start, ends.end, 0.0),
            *(self._point(ends, alpha, shallow) for alpha, shallow in self._grid()),
            Candidate.between(ends.start, ends.end, 1.0),
        )

    @override
    def count(self) -> int:
        return 2 + len(self._grid())

    def _grid(self) -> list[tuple[float, float]]:
        """Return alpha and g of all candidates but the ends."""
        pairs = ((alpha, shallow) for alpha in sorted({*self.alphas}) for shallow in sorted({*self.shallow}))
        return [(alpha, shallow) for alpha, shallow in pairs if alpha > 0.0 and (alpha, shallow) != (1.0, 1.0)]

    @staticmethod
    def _point(ends: Ends, alpha: float, shallow: float) -> Candidate:
        point = Candidate.between(ends.start, ends.end, alpha)
        if shallow == 1.0:  # the very candidate of wise_ft, whose measurements serve again
            return point
        merge = LinesKernel(alpha=alpha, shallow=shallow)
        return point.model_copy(update={"name": f"{point.name} shallow={shallow:g}", "merge": merge})
