"""Task arithmetic at several scales."""

from __future__ import annotations

from typing import Literal

from typing_extensions import override

from ftlib.merging.interpolation.scales import Scales
from ftlib.merging.methods import Merge
from ftlib.merging.methods import TaskArithmetic as TaskArithmeticKernel


class TaskArithmetic(Scales):
    """theta0 + scale * sum of task vectors (Ilharco et al. 2023, arXiv 2212.04089)."""

    kind: Literal["task_arithmetic"] = "task_arithmetic"

    @property
    @override
    def adds_up(self) -> bool:
        return True

    @override
    def merge(self, scale: float) -> Merge:
        return TaskArithmeticKernel(scale=scale)
