"""The recipe's `phases`: one training each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from ftlib.config import Config, Name, NamePattern
from ftlib.models.reference import ModelRef
from ftlib.training.augmentation import Augmentation
from ftlib.training.objectives import Objective
from ftlib.training.optimizers import Optimizer
from ftlib.training.optimizers.adamw import AdamW
from ftlib.training.penalties import Penalty
from ftlib.training.tuning import Tuning


class EarlyStopping(Config):
    """Stop when the validation loss has not fallen for `patience` evaluations; the best weights are kept."""

    patience: int = Field(default=2, gt=0)
    """Evaluations in a row without a lower validation loss before training ends."""
    min_delta: float = Field(default=0.0, ge=0.0)
    """A loss counts as lower if it is by more than this, in nats or the objective's own unit."""


class Companion(Config):
    """A frozen model beside the one that trains: one from elsewhere, or where an earlier phase ended."""

    model: ModelRef | None = None
    """Where it is, as for the recipe's `model`; it has the same tokenizer and, where there are any, the same labels."""
    phase: str | None = None
    """The earlier phase whose end it is, or `base`."""

    @model_validator(mode="after")
    def _is_one(self) -> Companion:
        if (self.model is None) == (self.phase is None):
            raise ValueError(f"give `model` or `phase`, got {'neither' if self.model is None else 'both'}")
        return self


class Phase(Config):
    """One training: objective x tuning x optimiser. Phases chain: each starts where the one before ended."""

    introduced: ClassVar[Mapping[str, object]] = {
        **{"mixture": {}, "penalty": None, "companions": {}, "scores": {}},
        **{"frozen": (), "batch_norm": "frozen", "augmentation": None, "self_kl": 0.0},
    }

    name: Name
    """What stages, candidates and curves call it."""
    dataset: str | None = None
    """The dataset of the recipe whose training split it learns from; or else `mixture` says several."""
    mixture: dict[Name, Annotated[float, Field(gt=0.0)]] = {}
    """Datasets, and how much each weighs: its share of the optimiser steps is its weight's share of all weights."""
    objective: Objective
    """What is minimised."""
    tuning: Tuning
    """Which weights move."""
    frozen: tuple[NamePattern, ...] = ()
    """Regular expressions, searched for in parameter names: what stays as it is, bit for bit, whatever the tuning."""
    batch_norm: Literal["frozen", "updated"] = "frozen"
    """The running statistics of BatchNorm. frozen: they stay, and rows are normalised by them, so a step does not
    depend on how its batch is split. updated: where the tuning trains a layer, each row is normalised by the rows of
    its batch, and the statistics follow them; with at most one worker, and no micro-batches."""
    optimizer: Optimizer = AdamW()
    """How they move, and for how long."""
    early_stopping: EarlyStopping | None = None
    """When to end before the last epoch; null: never."""
    ema_decay: float | None = Field(default=None, gt=0.0, lt=1.0)
    """The phase's weights are the exponential moving average of those after each step, over about 1 / (1 - ema_decay)
    steps: what is validated, what early stopping keeps, and the phase's end."""
    self_kl: float = Field(default=0.0, ge=0.0)
    """How much the loss counts KL(moving average || model) of the answers to the batch, in nats: the model stays near
    where it has been (CaRot, arXiv 2311.01723). It needs ema_decay, and reads no labels."""
    penalty: Penalty | None = None
    """What pulls at the weights beside the objective, for example back to where the phase started."""
    companions: dict[Name, Companion] = {}
    """The frozen models that the objective asks beside the one that trains, by the names it gives them."""
    scores: dict[Name, Companion] = {}
    """The frozen models whose numbers for each row the objective reads, by name; asked once, before training."""
    augmentation: Augmentation | None = None
    """What is changed of each training row, each time anew: `images`. What is measured sees rows as they are."""
    evaluations_per_epoch: int = Field(default=1, gt=0)
    """How often the loss on the validation split is measured."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bf16 where the processor or GPU computes it natively, else fp32. Resolved before the run is named."""
    dropout: float | None = Field(default=None, ge=0.0, lt=1.0)
    """Overrides the model's own dropout."""

    @model_validator(mode="after")
    def _has_data(self) -> Phase:
        if (self.dataset is None) == (not self.mixture):
            got = "got both" if self.mixture else "got neither"
            raise ValueError(f"give `dataset`, or a `mixture` of several with their weights, {got}")
        if len(self.mixture) == 1:
            raise ValueError(f"a mixture of one dataset, {next(iter(self.mixture))!r}; say it as `dataset`")
        return self

    @property
    def beside(self) -> dict[str, Companion]:
        """Return all frozen models that have a part in it, by name."""
        return {**self.companions, **self.scores}

    @property
    def parts(self) -> dict[str, float]:
        """Return the datasets it trains on, by name, and each one's share of the optimiser steps."""
        if self.dataset is not None:
            return {self.dataset: 1.0}
        whole = sum(self.mixture.values())
        # Sorted, as in the fingerprint: the order in which a recipe names them changes nothing.
        return {name: weight / whole for name, weight in sorted(self.mixture.items())}
