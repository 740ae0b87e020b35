"""The base of methods that add task vectors to theta0."""

from __future__ import annotations

from abc import ABC

from typing_extensions import override

from ftlib.merging.methods.kernel import Kernel


class TaskVectorKernel(Kernel, ABC):
    """theta0 + scale * tau; what tau is made of, task vectors theta_i - theta0, is the method's."""

    scale: float

    @override
    def whole_copy(self) -> int | None:
        return 0 if self.scale == 0.0 else None
