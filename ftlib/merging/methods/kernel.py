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
from ftlib.models.parameter_names import is_embedding, layer_of

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = 32_768
"""Chunks are whole blocks of elements, counted from the tensor's first: what is summed or drawn at random is summed
and drawn per block, so no result depends on the chunk size. Torch runs so few elements on one thread."""


SENSIBLE = 0.05
"""How far a base and its instruct model lie apart at most, where grafts gain (arXiv 2505.12716)."""


@dataclass(frozen=True)
class Chunk:
    """Which part of which tensor: a chunk's name and first element."""

    name: str
    """The tensor's."""
    layers: int = 0
    """How many layers the model has."""
    first: int = 0
    """The chunk's first element, counted in the tensor."""

    @property
    def layer(self) -> int | None:
        """Return the layer that the tensor is in, counted from the input; None outside the layers."""
        return layer_of(self.name)

    @property
    def depth(self) -> float:
        """Return how deep in the network it is: 0 for embeddings, 1 for what follows the last layer."""
        layer = self.layer
        if layer is None:
            return 0.0 if is_embedding(self.name) else 1.0
        return (layer + 1) / (self.layers + 1)


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
    adds_up: ClassVar[bool] = False
    """Whether a tensor of the result is a sum of the inputs', as `shares` says: adapters are then added up too."""
    least_checkpoints: ClassVar[int] = 2
    """How many checkpoints, theta0 among them, it takes for it to mean anything."""
    least_layers: ClassVar[int] = 0
    """How many layers a model must have for it to mean anything."""
    strangers: ClassVar[int] = 0
    """How many checkpoints it takes behind theta0 and theta1, and no more, that were not trained from theta0."""
    reference: ClassVar[int] = 1
    """Whose layout, config and tokenizer the result has, where nobody measures it."""
    grows: ClassVar[bool] = False
    """Whether theta1 may have more tokens than theta0, whose rows are then its own."""
    starts: ClassVar[bool] = True
    """Whether the first input is theta0, which the others were trained from; if not, all were, from one start."""
    scope: ClassVar[Literal["element", "tensor", "model"]] = "element"
    """What must be measured first: nothing, each tensor, or all tensors together."""
    version: ClassVar[int] = 1
    """Raised when the arithmetic changes: measurements of the old weights are not read again then."""

    @property
    def apart(self) -> float | None:
        """Return how far what is no fine-tune of theta0 may lie from it; None where there is none."""
        return None

    def reach(self, meter: Any, count: int) -> tuple[float, float] | None:
        """Return by how much a tensor of `count` inputs leaves theta0, and their mean does; both squared.

        None for a method that goes as far as it is told.
        """
        del meter, count
        return None

    def inputs(self, count: int) -> tuple[int, ...]:
        """Return which of `count` checkpoints take part."""
        return tuple(range(count))

    def coordinate(self) -> float | None:
        """Return the place between theta0 (0) and theta1 (1), where that means something."""
        return None

    def shares(self, count: int, chunk: Chunk) -> tuple[float, ...]:
        """Return how much of each of its `count` inputs a tensor adds up; together they are 1.

        Raises NotImplementedError for a method that is no such sum, which adapters have to be merged for.
        """
        raise NotImplementedError(f"{type(self).__name__} adds nothing up")

    @property
    def scales_adapter(self) -> bool:
        """Say whether scaling theta1's adapter over theta0, tensor by tensor, comes to the same."""
        return self.pair and self.adds_up

    def scaling(self, chunk: Chunk) -> float:
        """Return by how much theta1's adapter is scaled in a tensor, where it `scales_adapter`."""
        return self.shares(2, chunk)[1]

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
