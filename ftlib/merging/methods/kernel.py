"""What every merge method says about itself, so that one engine streams all of them in bounded memory.

The engine (`ftlib/merging/engine.py`) reads the tensors of one name from every input a chunk at a time and asks
the method for the chunk's result. A method is pure arithmetic on flat chunks; it never sees a file, a shape or a model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ftlib.config import Config

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = 32_768
"""Chunks are whole blocks of elements, counted from the tensor's first: what is summed or drawn at random is summed
and drawn per block, so no result depends on the chunk size. Torch runs so few elements on one thread."""


@dataclass(frozen=True)
class Chunk:
    """Which part of which tensor: a chunk's name and first element."""

    name: str
    """The tensor's."""
    depth: float = 0.0
    """How deep in the network: 0 for embeddings, 1 for what follows the last layer."""
    first: int = 0
    """The chunk's first element, counted in the tensor."""


def wide(tensor: Tensor) -> Tensor:
    """Return a copy in fp64 to compute in; `.double()` of what is fp64 already would be the input itself."""
    import torch

    return tensor.to(torch.float64, copy=True)


class Meter(ABC):
    """What a method must know of whole tensors before it can mix a chunk of them."""

    passes: int = 1
    """How often it must see all of them."""

    @abstractmethod
    def add(self, turn: int, tensors: Sequence[Tensor]) -> None:
        """Take in a chunk, on the given pass. Chunks come in order."""

    def close(self, turn: int) -> None:
        """End a pass."""
        del turn


class Kernel(Config, ABC):
    """One merge method with its numbers. Its inputs are theta0, theta1 and further checkpoints, in this order."""

    paper: ClassVar[str]
    """What a model card cites, to follow "This is "."""
    pair: ClassVar[bool] = False
    """Whether it takes two checkpoints and no more."""
    grows: ClassVar[bool] = False
    """Whether theta1 may have more tokens than theta0, whose rows are then its own."""
    starts: ClassVar[bool] = True
    """Whether the first input is theta0, which the others were trained from; if not, all were, from one start."""
    scope: ClassVar[Literal["element", "tensor", "model"]] = "element"
    """What must be measured first: nothing, each tensor, or all tensors together."""
    version: ClassVar[int] = 1
    """Raised when the arithmetic changes: measurements of the old weights are not read again then."""

    def inputs(self, count: int) -> tuple[int, ...]:
        """Return which of `count` checkpoints take part."""
        return tuple(range(count))

    def coordinate(self) -> float | None:
        """Return the place between theta0 (0) and theta1 (1), where that means something."""
        return None

    def shares(self, count: int) -> tuple[float, ...] | None:
        """Return how much of each of its `count` inputs is added up, where that is the same for every tensor.

        They sum to 1. None for a method that is no such sum, which adapters have to be merged for.
        """
        del count
        return None

    def scaling(self) -> float | None:
        """Return the alpha by which theta1's adapter would be scaled to come to the same; None where nothing does."""
        shares = self.shares(2) if self.pair else None
        return shares[1] if shares else None

    @classmethod
    def usual(cls, count: int) -> dict[str, Any]:
        """Return the numbers that it has for `count` checkpoints unless others are given."""
        del count
        return {}

    def leaves_out(self, count: int) -> bool:
        """Say whether one of `count` checkpoints takes no part."""
        del count
        return False

    def source_of(self, chunk: Chunk) -> int | None:
        """Return which input a tensor is a byte copy of, if it is one."""
        del chunk
        return self.whole_copy()

    def whole_copy(self) -> int | None:
        """Return which input the result is a byte copy of, if it is one."""
        return None

    def patterns(self) -> tuple[str, ...]:
        """Return the tensor patterns the method names; each must fit a tensor."""
        return ()

    def meter(self, count: int) -> Meter | None:
        """Return what measures `count` inputs; None where `scope` is `element`."""
        del count
        return None

    @abstractmethod
    def mix(self, chunk: Chunk, tensors: Sequence[Tensor], meter: Any, out: Tensor) -> None:
        """Write the chunk's result to `out`. Inputs are flat and of one floating type; `out` has it, or is wider."""
