"""What fine-tuning did to one model, done to a relative of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from ftlib.config import Fraction
from ftlib.merging.methods.kernel import SENSIBLE, Chunk, Kernel, wide
from ftlib.merging.methods.lerp import lerp

if TYPE_CHECKING:
    from torch import Tensor


class Graft(Kernel):
    """theta_2 + scale (theta_1 - theta_0), where theta_2 was not trained from theta_0 (Shadow-FT, Wu et al. 2025).

    arXiv 2505.12716: theta_0 is a base model, theta_1 its fine-tune, theta_2 the instruct model of that base. Where
    theta_2 is theta_0 bit for bit it is their straight line, and where training moved nothing it is theta_2.
    """

    paper: ClassVar[str] = "Shadow-FT (arXiv 2505.12716)"
    strangers: ClassVar[int] = 1
    reference: ClassVar[int] = 2

    kind: Literal["graft"] = "graft"
    scale: Fraction = 1.0
    """How much of the difference is carried over."""
    at_most_apart: float = Field(default=SENSIBLE, gt=0.0)
    """How far theta_0 and theta_2 may lie apart, for who merges without a recipe, which measures it before training."""

    @property
    @override
    def apart(self) -> float:
        return self.at_most_apart

    @override
    def whole_copy(self) -> int | None:
        return 2 if self.scale == 0.0 else None

    @override
    def mix(self, chunk: Chunk, tensors: Sequence[Tensor], meter: Any, out: Tensor) -> None:
        import torch

        del chunk, meter
        start, end, onto = tensors
        away = wide(start).sub_(end)  # subtracted below, for which +0.0 keeps -0.0
        moved = wide(onto).sub_(away, alpha=self.scale)
        line = end
        if self.scale != 1.0:  # no formula returns its end bit for bit
            lerp(start, end, self.scale, line := torch.empty_like(out))
        moved = torch.where(_same(start, end), onto, moved.to(out.dtype))
        out.copy_(torch.where(_same(start, onto), line, moved))


def _same(a: Tensor, b: Tensor) -> Tensor:
    """Say where two tensors have the same number, zeros by their sign too."""
    return (a == b) & (a.signbit() == b.signbit())
