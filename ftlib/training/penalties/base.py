"""What all penalties have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import TYPE_CHECKING

from ftlib.config import Config

if TYPE_CHECKING:
    from torch import Tensor, nn


class Pull(ABC):
    """A penalty at work: it knows one rank's parameters, which are whole or, where the model is sharded, its shards.

    The loop calls it once a step, after gradients were added up over micro-batches and ranks and before they are
    clipped. So what it adds depends neither on how a batch is split nor on how many workers there are.
    """

    @abstractmethod
    def add_gradient(self) -> Tensor:
        """Add the penalty's gradient to every parameter's; return the penalty of this rank's parameters, in float64."""


class PenaltyBase(Config, ABC):
    """A term of the loss that depends on the weights alone; it is added to the mean loss of a global batch."""

    @abstractmethod
    def start(self, model: nn.Module, fresh: Collection[str]) -> Pull:
        """Take note of the weights before step 0, also in a run that resumes later.

        The model is spread over its group already; `fresh` are its modules whose weights are still as random as they
        were made, and mean nothing.
        """
