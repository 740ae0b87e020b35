"""Task arithmetic: the scaled sum of task vectors, added to theta0."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from typing_extensions import override

from ftlib.merging.methods.kernel import Chunk, wide
from ftlib.merging.methods.task_vector import TaskVectorKernel

if TYPE_CHECKING:
    from torch import Tensor


class TaskArithmetic(TaskVectorKernel):
    """theta0 + scale * sum_i (theta_i - theta0) (Ilharco et al. 2023, arXiv 2212.04089).

    A scale above 1 goes beyond the fine-tunes, below 0 away from them.
    """

    paper: ClassVar[str] = "task arithmetic (arXiv 2212.04089)"
    adds_up: ClassVar[bool] = True

    kind: Literal["task_arithmetic"] = "task_arithmetic"

    @override
    def shares(self, count: int, chunk: Chunk) -> tuple[float, ...]:
        del chunk
        return (1.0 - self.scale * (count - 1), *[self.scale] * (count - 1))

    @override
    def mix(self, chunk: Chunk, tensors: Sequence[Tensor], meter: Any, out: Tensor) -> None:
        del chunk, meter
        start = wide(tensors[0])
        away = start - tensors[1]  # theta0 - theta_i: subtracting it keeps -0.0 where nothing moved
        for tensor in tensors[2:]:
            away += start - tensor
        out.copy_(start.sub_(away, alpha=self.scale))
