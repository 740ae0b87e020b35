"""What all penalties have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from ftlib.config import Config

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Start:
    """A phase before its step 0, also in a run that resumes later."""

    model: nn.Module
    """As it is spread over its group already."""
    fresh: Collection[str]
    """Its modules whose weights are still as random as they were made, and mean nothing."""
    fisher: Path | None = None
    """What the fisher stage left: a number for each element of each parameter, where the penalty `keeps` rows."""
    over_shards: Callable[[Tensor], Tensor] = lambda own: own
    """Adds up what each rank says of its own parts of the parameters; what all have alike it leaves as it is."""


class Kept(NamedTuple):
    """Rows on which the Fisher information is measured where a phase starts, before it."""

    datasets: tuple[str, ...]
    """None: the base model carries what was measured before."""
    rows: int
    """Of each dataset, at most."""


class Pull(ABC):
    """A penalty at work: it knows one rank's parameters, which are whole or, where the model is sharded, its shards.

    The loop calls it once a step, after gradients were added up over micro-batches and ranks and before they are
    clipped. So what it adds depends neither on how a batch is split nor on how many workers there are.
    """

    @abstractmethod
    def add_gradient(self) -> Tensor:
        """Add the penalty's gradient to every parameter's; return the penalty of this rank's parameters, in float64."""

    def after_step(self) -> None:  # noqa: B027
        """Change the weights that the optimiser has just proposed; most penalties are done before."""


class PenaltyBase(Config, ABC):
    """A term of the loss that depends on the weights alone; it is added to the mean loss of a global batch."""

    copies: ClassVar[int] = 1
    """How many tensors it keeps beside each that trains: where that started, what it weighs."""

    @property
    def keeps(self) -> Kept | None:
        """Return the rows that it is to keep, by the Fisher information on them; None where it reads none."""
        return None

    @abstractmethod
    def start(self, at: Start) -> Pull:
        """Take note of the weights before step 0. Raises ModelError for numbers that are not of this model."""
