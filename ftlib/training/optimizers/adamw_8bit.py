"""AdamW whose moments are bytes."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, prod
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from typing_extensions import override

from ftlib.errors import RecipeError
from ftlib.training.optimizers.base import ParameterGroup
from ftlib.training.optimizers.hidden import HiddenMatrices

if TYPE_CHECKING:
    import torch

_SMALL = 4096
"""Numbers of a parameter below which bitsandbytes keeps its moments in fp32."""
_BLOCK = 256
"""Numbers that have a scale in common."""


class AdamW8bit(HiddenMatrices):
    """AdamW with moments of 8 bits, quantised in blocks of 256 (Dettmers et al. 2022, arXiv 2110.02861).

    By bitsandbytes. Embeddings, heads and vectors keep moments of 32 bits, as its authors advise.
    """

    kind: Literal["adamw_8bit"] = "adamw_8bit"

    package: ClassVar[str | None] = "bitsandbytes"

    @property
    @override
    def title(self) -> str:
        return "AdamW with moments of 8 bits"

    @override
    def build(self, groups: Sequence[ParameterGroup], seed: int) -> torch.optim.Optimizer:
        from ftlib.training.optimizers.joint import joint

        try:
            import bitsandbytes
        except ImportError as error:
            raise RecipeError(
                "optimizer.kind: 'adamw_8bit' needs bitsandbytes, which is not installed; pip install "
                "'reglage[bitsandbytes]', or use adamw"
            ) from error
        library: Any = bitsandbytes
        matrices = library.optim.AdamW8bit(
            self.matrices(groups),
            lr=self.learning_rate,
            betas=(self.beta1, self.beta2),
            eps=self.epsilon,
            min_8bit_size=_SMALL,
        )
        return joint(matrices, self.beside(groups))

    @override
    def state_bytes(self, shape: Sequence[int], *, hidden: bool) -> int:
        numbers = prod(shape)
        if not hidden or numbers < _SMALL:
            return 8 * numbers
        return 2 * numbers + 8 * ceil(numbers / _BLOCK)
