"""Which checkpoints a method takes: the last phase's two ends, or more fine-tunes of the same start beside them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal, NamedTuple

from pydantic import Field

from ftlib.config import Config
from ftlib.merging.candidates import Candidate
from ftlib.models.checkpoint import Checkpoint
from ftlib.models.reference import ModelRef


class Score(Config):
    """What `select.by`, and `plus`, say of one candidate so far."""

    weights: str
    """The candidate's digest."""
    value: float
    """Higher is better."""
    error: float = 0.0
    """One standard error of its paired difference from the best so far: less than this cannot be told apart."""


@dataclass(frozen=True)
class Ends:
    """What candidates are made of."""

    start: Checkpoint
    """theta0: the last phase's exact start, head included."""
    end: Checkpoint
    """theta1: the last phase's end."""
    siblings: tuple[Checkpoint, ...] = ()
    """More fine-tunes of theta0."""
    onto: Checkpoint | None = None
    """The model that what training did is carried to."""
    carried: Checkpoint | None = None
    """theta1 over that model, where theta1 is an adapter."""
    scores: Mapping[str, Score] = field(default_factory=dict[str, Score])
    """What was measured so far, by a candidate's digest."""


class Onto(NamedTuple):
    """A model that what training did to another one is carried to."""

    model: ModelRef
    at_most_apart: float
    """How far it may lie from that one: sum |a - b| / (sum |a| + sum |b|) over all weights."""


class InterpolationBase(Config, ABC):
    """Which candidates lie between and beside the ends. It knows no tensors."""

    least: ClassVar[int] = 0
    """Siblings it cannot do without."""
    mixes: ClassVar[bool] = True
    """Whether some candidate is made of more than one checkpoint, so that theta0's head must mean something."""
    least_layers: ClassVar[int] = 0
    """How many layers a model must have for it to mean anything."""
    on_language_models: ClassVar[str] = ""
    """What was measured of it on causal language models, where that is a reason to choose another."""
    introduced: ClassVar[Mapping[str, object]] = {"batch_norm": "measured", "batch_norm_rows": 512}

    batch_norm: Literal["measured", "mixed"] = "measured"
    """BatchNorm statistics that moved in the last phase. measured: those of a mix are what its own weights compute of
    training rows. mixed: they are mixed as weights are. Of no effect on models without BatchNorm."""
    batch_norm_rows: int = Field(default=512, ge=2)
    """Rows of the last phase's training split on which they are measured, all in one batch."""

    @property
    def adaptive(self) -> bool:
        """Say whether what was measured of its points gives it more points."""
        return False

    @property
    def by_layer(self) -> bool:
        """Say whether layers go different ways by their depth, so that a model must number them from its input."""
        return self.least_layers > 0

    @property
    def scales_adapter(self) -> bool:
        """Say whether scaling the end's adapter, module by module, reaches every candidate."""
        return False

    @property
    def adds_up(self) -> bool:
        """Say whether each candidate adds up its checkpoints, tensor by tensor, with shares that the names decide.

        Adapters over one base are then added up without merging them.
        """
        return self.scales_adapter

    @property
    def carried_to(self) -> Onto | None:
        """Return the model that what training did is carried to; None for those that stay where it was trained."""
        return None

    @property
    def is_path(self) -> bool:
        """Say whether there is one candidate at each alpha, so that a score has a curve along it."""
        return False

    @property
    def places(self) -> tuple[float, ...]:
        """Return the alphas at which a candidate is sure to lie, ascending; none where alpha means nothing."""
        return ()

    def patterns(self) -> tuple[str, ...]:
        """Return the tensor patterns that the recipe names; each must fit a tensor."""
        return ()

    @abstractmethod
    def points(self, ends: Ends) -> tuple[Candidate, ...]:
        """Return the candidates, theta0 first and theta1 last, under distinct names: a pure function of the ends."""

    @abstractmethod
    def count(self) -> int:
        """Return how many candidates there will be, at most."""


class TwoEnds(InterpolationBase, ABC):
    """theta0 and theta1 alone."""

    introduced: ClassVar[Mapping[str, object]] = {**InterpolationBase.introduced, "start": None}

    start: str | None = None
    """theta0 is this snapshot of the last phase (early-checkpoint WiSE, Dang et al. 2025, arXiv 2504.10478): `step-40`
    or `epoch-0.5`, which the phase's `snapshots` keeps. null: where that phase started."""
    seeds: ClassVar[tuple[int, ...]] = ()
    siblings: ClassVar[tuple[str, ...]] = ()


class WithSiblings(InterpolationBase, ABC):
    """theta0, theta1 and more checkpoints that were trained from the very same theta0."""

    least: ClassVar[int] = 1
    start: ClassVar[None] = None

    seeds: tuple[int, ...] = ()
    """The last phase is trained again with each of these: another order of rows, other dropout, the same start."""
    siblings: tuple[str, ...] = ()
    """Checkpoints that are there already: folders of a work folder's train stage, or versions `name@3` of the registry
    that the recipe publishes to."""
