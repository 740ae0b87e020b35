"""What one process does of a phase: its attempt, the steps of it, and what every rank ends with."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from ftlib.kinds.batch import LossSum
from ftlib.training.checkpoints.resumable import State
from ftlib.training.loops.batches import GlobalBatch


@dataclass(frozen=True)
class Trained:
    """What every rank ends with."""

    model: nn.Module
    """As it is placed: this rank's shards, or a replica, with the weights that the phase ends with."""
    state: State
    unused: frozenset[str]
    """Parameters that were to train and are as they were: no gradient reaches them, or their turn did not come."""
    facts: dict[str, float | int | str]
    companions: Mapping[str, nn.Module] = field(default_factory=dict[str, nn.Module])
    """As they are placed."""
    snapshots: Mapping[str, Callable[[], None]] = field(default_factory=dict[str, Callable[[], None]])
    """What gives the model the weights of a snapshot, by its name, in the order of their steps; collective."""
    snapshot_steps: Mapping[str, int] = field(default_factory=dict[str, int])
    """The step that each was taken behind."""


@dataclass
class Attempt:
    """What this process does of the phase: a resumed run does not count what was done before it."""

    first_step: int
    rows: int = 0
    loss: float = math.nan
    """Of the last step that was read."""
    wants_checkpoint: bool = False
    """The first rank's clock asked for one, and all ranks have heard of it."""
    stops: bool = False
    """The first rank was asked to stop, and all ranks have heard of it."""
    lacks_checkpoint: bool = False
    """A rank could not write its part of one, and all ranks have heard of it."""
    began: float = field(default_factory=time.monotonic)
    saved: float = field(default_factory=time.monotonic)
    """When the last checkpoint was begun."""


@dataclass(frozen=True)
class Step:
    """One step that was done, but for its numbers, which the device may still be computing."""

    number: int
    """Counted from 1."""
    batch: GlobalBatch
    count: int
    """Supervised items of the global batch: what its loss is divided by."""
    learning_rate: float
    measured: Mapping[str, float] = field(default_factory=dict[str, float])
    """What else the curves say of it."""
    beside: tuple[str, ...] = ()
    """What else they say that the device may still be computing, in the order of the numbers."""


@dataclass
class Sums:
    """What this rank's pieces of a global batch come to."""

    loss: torch.Tensor
    beside: dict[str, torch.Tensor] = field(default_factory=dict[str, torch.Tensor])
    """What the objective measured: of each name a sum, and how many it is of."""

    def add(self, loss: LossSum, weight: float) -> None:
        """Add a piece's."""
        self.loss += loss.total.detach() * weight
        for name, pair in loss.measured.items():
            self.beside[name] = self.beside.get(name, torch.zeros_like(pair)) + pair * weight
