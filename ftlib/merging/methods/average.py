"""The plain mean of several checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from ftlib.merging.methods.kernel import Chunk, Kernel, wide

if TYPE_CHECKING:
    from torch import Tensor


class Average(Kernel):
    """The mean of some of the candidate's checkpoints: a model soup (Wortsman et al. 2022, arXiv 2203.05482).

    Summed in fp64 and rounded once; one ingredient is a byte copy.
    """

    paper: ClassVar[str] = "a model soup (arXiv 2203.05482)"
    starts: ClassVar[bool] = False
    adds_up: ClassVar[bool] = True

    kind: Literal["average"] = "average"
    ingredients: tuple[int, ...] = Field(min_length=1)
    """Positions: 0 is theta0, 1 theta1, then the siblings."""

    @override
    def inputs(self, count: int) -> tuple[int, ...]:
        if not set(self.ingredients) <= set(range(count)) or len(set(self.ingredients)) < len(self.ingredients):
            raise ValueError(f"ingredients {self.ingredients} are not distinct positions below {count}")
        return self.ingredients

    @classmethod
    @override
    def usual(cls, count: int) -> dict[str, Any]:
        return {"ingredients": list(range(count))}

    @override
    def leaves_out(self, count: int) -> bool:
        return sorted(self.ingredients) != list(range(count))

    @override
    def shares(self, count: int, chunk: Chunk) -> tuple[float, ...]:
        del chunk
        return (1.0 / count,) * count

    @override
    def whole_copy(self) -> int | None:
        return 0 if len(self.ingredients) == 1 else None

    @override
    def mix(self, chunk: Chunk, tensors: Sequence[Tensor], meter: Any, out: Tensor) -> None:
        del chunk, meter
        total = wide(tensors[0])
        for tensor in tensors[1:]:
            total += tensor
        out.copy_(total.div_(len(tensors)))
