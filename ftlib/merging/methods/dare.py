"""DARE: most elements of each task vector are dropped at random, the rest are scaled up."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from ftlib.merging.methods.kernel import BLOCK, Chunk, wide
from ftlib.merging.methods.task_vector import TaskVectorKernel

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Bool
    from torch import Tensor


class Dare(TaskVectorKernel):
    """theta0 + scale * sum_i tau_i, tau_i with a share `drop` of its elements 0 and the others divided by 1 - drop.

    Yu et al. 2024, arXiv 2311.03099. Drawn by Philox from the seed, the tensor's name, the checkpoint's position and
    the block, so the same elements are dropped whatever the chunk size, the worker count or the shard layout.
    """

    paper: ClassVar[str] = "DARE (arXiv 2311.03099)"

    kind: Literal["dare"] = "dare"
    drop: float = Field(default=0.9, ge=0.0, lt=1.0)
    scale: float = 1.0
    seed: int = Field(default=0, ge=0)

    @override
    def mix(self, chunk: Chunk, tensors: Sequence[Tensor], meter: Any, out: Tensor) -> None:
        import torch

        del meter
        for first in range(0, len(out), BLOCK):
            part = slice(first, first + BLOCK)
            start = wide(tensors[0][part])
            away = torch.zeros_like(start)
            for i, tensor in enumerate(tensors[1:], start=1):
                kept = kept_elements(self.seed, chunk.name, i, (chunk.first + first) // BLOCK, self.drop)
                away += (start - tensor[part]) * torch.from_numpy(kept[: len(start)])
            out[part].copy_(start.sub_(away, alpha=self.scale / (1.0 - self.drop)))


def kept_elements(seed: int, name: str, position: int, block: int, drop: float) -> Bool[np.ndarray, " block"]:
    """Return which elements of a block stay."""
    import numpy as np

    key = hashlib.sha256(f"{seed} {position} {block} {name}".encode()).digest()[:16]
    generator = np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))
    return generator.random(BLOCK) >= drop
