"""The words by which tunings differ for the recipe and for the worker, and what one of them must be able to do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pydantic import BeforeValidator

from ftlib.config import BatchKind, Config
from ftlib.models.checkpoint import Checkpoint, Form, FoundModel, Quantization

if TYPE_CHECKING:
    from torch import nn

    from ftlib.kinds.split import PreparedSplit

Facts = dict[str, float | int | str]
"""What a checkpoint says of how it was made."""

ENCODER = "encoder"
"""The companion that embeds sentences and images alike, where the model that trains reads no text."""


def number_or_auto(*, zero: bool) -> BeforeValidator:
    """Return what refuses all but `auto` and numbers, in one sentence; a union of its own would say one of each member.

    `zero` says whether 0 is allowed.
    """

    def check(value: object) -> object:
        number = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < inf
        if not (value == "auto" or (number and (zero or value != 0))):
            raise ValueError(f"got {value!r}, allowed are auto and numbers {'from 0 on' if zero else 'above 0'}")
        return value

    return BeforeValidator(check)


@dataclass(frozen=True)
class Problem:
    """What a tuning that takes no steps solves."""

    phase: str
    model: nn.Module
    """In eval mode on its device, after `prepare`; what is solved for is written into it."""
    head: Sequence[str]
    """The modules of its head."""
    labels: tuple[str, ...]
    train: PreparedSplit
    validation: PreparedSplit
    """May have no rows."""
    folder: Path
    """Of the checkpoint that it starts from: config, tokenizer and image processor."""
    companions: Mapping[str, FoundModel | Checkpoint]
    """The frozen models that the tuning `asks`, by name."""


class TuningBase(Config, ABC):
    """Which weights move, and how far what comes of it goes."""

    fits: ClassVar[frozenset[BatchKind] | None] = None
    """The kinds of batch that it can learn from; None for all."""
    takes_steps: ClassVar[bool] = True
    """Whether the optimiser moves weights step by step; if not, `solve` finds them."""
    reads_pairs: ClassVar[bool] = True
    """Whether it can learn from rows that are two texts."""
    moves_head_only: ClassVar[bool] = False
    """Whether the body stays the base model's: an adapter may stand on what it makes, a line from it leads nowhere."""
    moves_rows: ClassVar[bool] = False
    """Whether it trains the rows of tokens that were added to the model."""
    several_heads: ClassVar[bool] = False
    """Whether it moves a body that the heads of several tasks share, as it moves a model of one."""
    unfreezes: ClassVar[bool] = False
    """Whether some of what trains waits at first: `thaws` says until when."""
    speeds_up: ClassVar[str] = ""
    """What raises the rates of those that learn more slowly than the rest, where some do."""
    makes_adapter: ClassVar[bool] = False
    """Whether `finish` leaves an adapter that can be published beside the merged weights."""

    makes: ClassVar[str] = ""
    """The adapter that it leaves, by peft's name for the method; empty for one of another make, or none."""
    merges: ClassVar[bool] = True
    """Whether the adapter that it leaves can be merged into dense weights."""
    packs: ClassVar[bool] = True
    """Whether a model that it has prepared keeps the rows of a pack apart as well as it did before."""
    recomputes: ClassVar[bool] = True
    """Whether layers can be computed again in the backward pass."""
    starts_as_given: ClassVar[bool] = True
    """Whether a model that it has prepared answers, until the first step, as what it was given does."""
    package: ClassVar[str | None] = None
    """The package that it needs and a plain installation lacks; the extra that brings it is called the same."""
    without_package: ClassVar[str] = "lora"
    """What to use where that is not installed."""

    @property
    def takes_over(self) -> frozenset[str]:
        """Return the adapters that it can go on with, by peft's names for their methods."""
        return frozenset({self.makes})

    @property
    def places(self) -> int:
        """Return how many of the places that the model reads it takes from every row."""
        return 0

    @property
    def adapter_scales(self) -> bool:
        """Say whether its adapter times alpha is the model at alpha on the straight line."""
        return self.makes_adapter

    @property
    def adapter_adds(self) -> bool:
        """Say whether its adapter adds a difference to the weights below it and does nothing else.

        Neither factors of those weights, nor modules that it holds as they ended: over another model that would be more
        than what was learnt.
        """
        return False

    @property
    def quantization(self) -> Quantization | None:
        """Return how the linear layers of what it starts from are rounded, and held while it trains; None: not at all.

        The stage `quantize` rounds them, and the rounded model is where the phase starts.
        """
        return None

    @property
    def leaves(self) -> Form | None:
        """Return the form of checkpoint that its phase ends in; None for the form that the phase started from.

        What leaves an adapter is saved as peft saves it, over what the phase started from: `finish` is not called.
        """
        return "dense"

    def with_added_rows(self, rows: tuple[int, ...]) -> TuningBase:
        """Return the tuning that trains the embedding's rows of these tokens, which were added, beside the rest."""
        return self

    def asks(self, kind: BatchKind) -> tuple[str, ...]:
        """Return the frozen models that it asks for such batches, by their names in a phase's `companions`."""
        return ()

    def check_labels(self, labels: Sequence[str]) -> None:
        """Raise RecipeError for labels that it cannot be asked for; called as soon as the rows have told them."""

    def rate_factors(self, model: nn.Module, head: Collection[str]) -> Mapping[str, float]:
        """Return what the learning rate is multiplied with, by parameter, beside layer-wise decay; else it is 1."""
        return {}

    def thaws(self, model: nn.Module, head: Collection[str], steps_per_epoch: int) -> Mapping[str, int]:
        """Return the step, counted from 0, from which on a parameter trains; of those not named, from the first.

        `model` is as `prepare` returned it, with what never trains frozen. Until its step a parameter is frozen, bit
        for bit.
        """
        return {}

    @abstractmethod
    def prepare(self, model: nn.Module, kind: BatchKind, head: Collection[str]) -> nn.Module:
        """Set what trains, and return the model, wrapped if need be; called right after `torch.manual_seed`.

        The model's parameters may be `Unread`: what needs values asks for them by `ftlib.models.unread.values_of`.
        `head` names the modules of the task head. Raises RecipeError for a setting that this model cannot meet.
        """

    def finish(self, model: nn.Module, adapter: Path) -> None:
        """Leave weights of its own in the folder `adapter`, before peft's layers are merged one by one.

        Called on the first rank alone. Of `model` the base's frozen weights are unread; what trained is there, whole.
        """

    def saved(self, model: nn.Module, adapter: Path) -> None:
        """Settle the adapter that peft has just saved of `model` in a folder, where it says less than the model does.

        Called on the first rank alone, for a phase that leaves an adapter.
        """

    def solve(self, problem: Problem) -> Facts:
        """Write what it solves for into the problem's model, and return what to record of it, `final_loss` among it.

        Raises TrainingError for rows that it cannot be solved on. Only for a tuning that takes no steps.
        """
        raise TypeError(f"{type(self).__name__} takes no steps and solves for nothing; give it `solve`, or let it step")

    def solved(self, hidden: int, outputs: int) -> int:
        """Return how many numbers it solves for in a model of that width with so many outputs."""
        return 0

    def solution(self, facts: Mapping[str, float | int | str]) -> str:
        """Say in a clause what was solved for, from the checkpoint's facts."""
        return ""
