"""The recipe's `phases`: one training each."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from ftlib.config import Config, Name, NamePattern
from ftlib.data.datasets import PreparedDataset
from ftlib.models.reference import ModelRef
from ftlib.training.augmentation import Augmentation
from ftlib.training.mixture import Mixing
from ftlib.training.objectives import Objective
from ftlib.training.optimizers import Optimizer
from ftlib.training.optimizers.adamw import AdamW
from ftlib.training.penalties import Penalty
from ftlib.training.principles import CRITIQUE, PRINCIPLE, REVISION
from ftlib.training.rewards import Reward
from ftlib.training.tuning import Tuning


class EarlyStopping(Config):
    """Stop when the validation loss has not fallen for `patience` evaluations; the best weights are kept."""

    patience: int = Field(default=2, gt=0)
    """Evaluations in a row without a lower validation loss before training ends."""
    min_delta: float = Field(default=0.0, ge=0.0)
    """A loss counts as lower if it is by more than this, in nats or the objective's own unit."""


class Snapshots(Config):
    """Weights of a phase's way that are kept beside its end, which an interpolation may start from.

    Each is called as it is asked for: `step-40`, `epoch-0.5`.
    """

    steps: tuple[Annotated[int, Field(gt=0)], ...] = ()
    """Behind which optimiser steps, counted from 1."""
    epochs: tuple[Annotated[float, Field(gt=0.0)], ...] = ()
    """Behind how many epochs; the nearest step is meant."""

    @model_validator(mode="after")
    def _keeps_some(self) -> Snapshots:
        if not self.names:
            raise ValueError("give `steps` or `epochs`, got neither")
        if len({*self.names}) < len(self.names):
            raise ValueError(f"each step and epoch once, got {', '.join(self.names)}")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """Return what the snapshots are called."""
        return (*(f"step-{step}" for step in self.steps), *(f"epoch-{epoch:g}" for epoch in self.epochs))

    def steps_of(self, steps_per_epoch: int) -> dict[str, int]:
        """Return the optimiser step that each snapshot is taken behind, by its name."""
        by_epoch = (max(1, round(epoch * steps_per_epoch)) for epoch in self.epochs)
        return dict(zip(self.names, (*self.steps, *by_epoch), strict=True))


ANSWERS = "answers"
"""What the model that writes a phase's answers is called among those beside it."""
CRITIC = "critic"
"""What the model that holds drafts against principles is called there, if it is another than drafts."""


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


class WrittenAnswers(Companion):
    """A frozen model that writes the answers that a phase learns (Kim & Rush 2016, arXiv 1606.07947)."""

    max_new_tokens: int = Field(default=64, gt=0)
    """How much it writes at most; an answer that is cut there teaches no end."""
    num_beams: int = Field(default=1, gt=0)
    """How many beginnings of an answer it keeps while it writes; 1: the most probable token at each place."""


class Principles(Config):
    """Written principles by which a model revises what it drafts (Bai et al. 2022, arXiv 2212.08073).

    To each of a phase's prompts the model that the phase starts from drafts an answer; for each principle a critic says
    whether the draft keeps it, and where it does not, the model revises it. The phase learns that the revision is
    preferred to the draft.
    """

    file: str
    """The principles, plain sentences: one a line, or one a paragraph. A relative path counts from the current
    folder."""
    critic: Companion | None = None
    """The frozen model that criticises; null: the one that drafts and revises."""
    max_new_tokens: int = Field(default=64, gt=0)
    """The most that a draft, a critique and a revision may have each."""
    temperature: float = Field(default=1.0, ge=0.0)
    """Of drafts; 0: the most probable token at each place. Critiques and revisions are always the most probable."""
    critique: str = Field(default=CRITIQUE, pattern=re.escape(PRINCIPLE))
    """What the critic is asked, after the prompt and the draft; `{principle}` stands for the sentence. What it says
    begins with Yes or No, whichever it finds likelier."""
    revision: str = Field(default=REVISION, pattern=re.escape(PRINCIPLE))
    """What the model is asked after the critique."""
    keep_cut: bool = False
    """Whether drafts and revisions that were cut at `max_new_tokens` are learnt from, as if they ended there."""
    checkers: dict[int, Reward] = {}
    """What measures a principle, by its place in the file from 1: an answer keeps it where the reward is 1 or more. It
    measures and chooses nothing. Where a principle has none, the critic's word counts."""


class TaskLoss(Config):
    """How one of several tasks is learnt."""

    objective: Objective | None = None
    """What is minimised on its rows; null: the phase's."""
    weight: float = Field(default=1.0, gt=0.0)
    """What its loss is multiplied with: a step on its rows minimises its weight times their mean loss."""


class Phase(Config):
    """One training: objective x tuning x optimiser. Phases chain: each starts where the one before ended."""

    introduced: ClassVar[Mapping[str, object]] = {
        **{"mixture": {}, "penalty": None, "companions": {}, "scores": {}},
        **{"frozen": (), "batch_norm": "frozen", "augmentation": None, "self_kl": 0.0},
        **{"mixing": Mixing(), "tasks": {}, "answers": None, "principles": None, "snapshots": None, "start": None},
    }

    name: Name
    """What stages, candidates and curves call it."""
    start: Literal["base"] | None = None
    """base: it starts from the recipe's model again, and where the phases before it ended is a companion of later ones
    at most: a reward model, a teacher. null: where the phase before ended."""
    dataset: str | None = None
    """The dataset of the recipe whose training split it learns from; or else `mixture` says several."""
    mixture: dict[Name, Annotated[float, Field(ge=0.0)]] = {}
    """Datasets, and how much each weighs: its share of the optimiser steps is its weight's share of all weights, unless
    `mixing` says more. One that weighs 0 is left out."""
    mixing: Mixing = Mixing()
    """What else the shares of a mixture follow, and whether its parts meet inside a batch."""
    objective: Objective
    """What is minimised; of several tasks, on the rows of those that `tasks` gives no other."""
    tasks: dict[Name, TaskLoss] = {}
    """Of tasks that a dataset names: what else is minimised on their rows, and how much it weighs."""
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
    answers: WrittenAnswers | None = None
    """The frozen model whose answers are learnt in place of the rows' own, written once, before training."""
    principles: Principles | None = None
    """Written principles by which preferences are made of the rows' prompts, once, before training."""
    augmentation: Augmentation | None = None
    """What is changed of each training row, each time anew: `images`. What is measured sees rows as they are."""
    snapshots: Snapshots | None = None
    """Weights of its way that are kept: `interpolation.start` may be one. null: its end alone."""
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
        if self.mixture and not any(self.mixture.values()):
            raise ValueError(f"mixture: the weights of {', '.join(self.mixture)} sum to 0; give one that is above 0")
        if not self.mixture and self.mixing != Mixing():
            raise ValueError(f"mixing: says how the parts of a `mixture` are mixed, got dataset {self.dataset!r}")
        if self.mixing.limit is not None and self.mixing.by != "rows":
            raise ValueError(f"mixing.limit: {self.mixing.limit} rows, but shares follow weights; set by: rows")
        return self

    @property
    def beside(self) -> dict[str, Companion]:
        """Return all frozen models that have a part in it, by name."""
        critic = self.principles.critic if self.principles else None
        written = {ANSWERS: self.answers, CRITIC: critic}
        return {**self.companions, **self.scores, **{name: one for name, one in written.items() if one}}

    @property
    def parts(self) -> dict[str, float]:
        """Return the datasets it trains on, by name, and what each weighs."""
        if self.dataset is not None:
            return {self.dataset: 1.0}
        # Sorted, as in the fingerprint: the order in which a recipe names them changes nothing.
        return {name: weight for name, weight in sorted(self.mixture.items()) if weight}

    def of_task(self, parts: Collection[str], task: str) -> Phase:
        """Return what the phase does for one task, whose datasets these are: not a phase that could be run."""
        mine = {name: weight for name, weight in self.parts.items() if name in parts}
        lone = next(iter(mine)) if len(mine) == 1 else None
        data = {"dataset": lone, "mixture": {} if lone else mine, "mixing": Mixing() if lone else self.mixing}
        return self.model_copy(update={**data, "objective": self.objective_of(task), "tasks": {}})

    def objective_of(self, task: str | None) -> Objective:
        """Return what is minimised on the rows of a task."""
        own = self.tasks.get(task) if task else None
        return self.objective if own is None or own.objective is None else own.objective

    def loss_weight(self, task: str) -> float:
        """Return what a task's loss is multiplied with."""
        return self.tasks[task].weight if task in self.tasks else 1.0

    @property
    def mixes_rows(self) -> bool:
        """Say whether a batch has rows of several parts."""
        return self.mixing.batches == "mixed" and len(self.parts) > 1

    def shares(self, prepared: Mapping[str, PreparedDataset]) -> dict[str, float]:
        """Return each part's share of the optimiser steps or, of mixed batches, of the rows; together they are 1."""
        return self.mixing.shares(self.parts, {name: prepared[name].splits["train"].rows for name in self.parts})
