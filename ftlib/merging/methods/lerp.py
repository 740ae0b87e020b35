"""The straight line between two checkpoints."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from typing_extensions import override

from ftlib.config import Fraction
from ftlib.merging.methods.kernel import Chunk, Kernel

if TYPE_CHECKING:
    from torch import Tensor


class Line(Kernel, ABC):
    """(1 - alpha) theta0 + alpha theta1 with an alpha for each tensor, which its name and its layer decide."""

    pair: ClassVar[bool] = True
    adds_up: ClassVar[bool] = True
    grows: ClassVar[bool] = True

    @abstractmethod
    def alpha_at(self, chunk: Chunk) -> float:
        """Return a tensor's alpha."""

    @override
    def source_of(self, chunk: Chunk) -> int | None:
        """Return the end that a tensor's alpha of 0 or 1 copies: no formula returns its ends bit for bit."""
        alpha = self.alpha_at(chunk)
        return int(alpha) if alpha in (0.0, 1.0) else None

    @override
    def shares(self, count: int, chunk: Chunk) -> tuple[float, ...]:
        del count
        alpha = self.alpha_at(chunk)
        return (1.0 - alpha, alpha)

    @override
    def mix(self, chunk: Chunk, tensors: Sequence[Tensor], meter: Any, out: Tensor) -> None:
        del meter
        lerp(tensors[0], tensors[1], self.alpha_at(chunk), out)


class Lerp(Line):
    """(1 - alpha) theta0 + alpha theta1, alpha per tensor if wanted (Wortsman et al. 2022, arXiv 2109.01903)."""

    paper: ClassVar[str] = "WiSE-FT (arXiv 2109.01903)"
    version: ClassVar[int] = 2

    kind: Literal["lerp"] = "lerp"
    alpha: Fraction
    modules: dict[str, Fraction] = {}
    """Glob over tensor names to the alpha these tensors get instead; the first that fits counts."""
    depth: tuple[Fraction, ...] = ()
    """Factors of alpha from the embeddings to the head, evenly spaced and linear between; empty for 1 everywhere."""

    @override
    def coordinate(self) -> float | None:
        return self.alpha

    @override
    def alpha_at(self, chunk: Chunk) -> float:
        for pattern, alpha in self.modules.items():
            if fnmatchcase(chunk.name, pattern):
                return alpha
        return self.alpha * _on_curve(self.depth, chunk.depth) if self.depth else self.alpha

    @override
    def whole_copy(self) -> int | None:
        return int(self.alpha) if self.alpha in (0.0, 1.0) and not self.modules and not self.depth else None

    @override
    def patterns(self) -> tuple[str, ...]:
        return tuple(self.modules)


def lerp(a: Tensor, b: Tensor, alpha: float, out: Tensor) -> None:
    """Write (1 - alpha) a + alpha b, rounded once: bf16 and fp16 are computed in fp32, fp32 in fp64.

    Guaranteed for finite values: lerp(a, a) is a bit for bit, signed zeros too; lerp(a, b, alpha) is
    lerp(b, a, 1 - alpha) bit for bit (in fp64 storage all but alpha = 0.5, where it is to one ulp); the result lies
    between a and b to one ulp.

    All three rest on the branch of torch.lerp for weights of at least 0.5, `b - (b - a) (1 - w)`: swapped ends come
    to the same call, and a difference of +0.0 is subtracted, which keeps -0.0; the other branch adds it and loses it.
    """
    import torch

    if alpha < 0.5:
        a, b, alpha = b, a, 1.0 - alpha
    if a.dtype == torch.float32:
        wide = a.double()
        out.copy_(torch.lerp(wide, b.double(), alpha, out=wide))
    else:
        torch.lerp(a, b, alpha, out=out)


def _on_curve(factors: Sequence[float], depth: float) -> float:
    if len(factors) == 1:
        return factors[0]
    at = depth * (len(factors) - 1)
    left = min(int(at), len(factors) - 2)
    return factors[left] + (at - left) * (factors[left + 1] - factors[left])
