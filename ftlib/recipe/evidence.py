"""What a run found out before it reports and publishes: every stage's record, in one value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from ftlib.config import Config
from ftlib.data.datasets import PreparedDataset, RawDataset
from ftlib.evaluation.learning_curve import CurveEvidence
from ftlib.evaluation.measured import EvalReport, Measured
from ftlib.evaluation.principle_facts import Upheld
from ftlib.evaluation.selection import Selection
from ftlib.merging.candidates import Candidates
from ftlib.models.checkpoint import Base, Checkpoint, FoundModel
from ftlib.recipe.recipe import Recipe
from ftlib.training.fisher.record import Fisher


class Evidence(Config):
    """The records of one run, from the rows to the choice."""

    introduced: ClassVar[Mapping[str, object]] = {
        "companions": {},
        "fisher": None,
        "onto": None,
        "upheld": (),
        "curve": None,
        "aside": (),
    }

    recipe: Recipe
    model: FoundModel
    raw: dict[str, RawDataset]
    prepared: dict[str, PreparedDataset]
    checkpoints: tuple[Checkpoint, ...]
    """`base`, `prune` where layers were removed, then each phase's end; before it its start where that is no end: with
    another head, or in four bits."""
    candidates: Candidates
    sweep: tuple[EvalReport, ...]
    """The candidates on the selection split."""
    selection: Selection
    final: tuple[EvalReport, ...]
    """Checkpoints and the chosen candidate on the report split."""
    companions: dict[str, dict[str, FoundModel | Checkpoint]] = {}
    """The frozen models that had a part in a phase, beside the model or by their scores, by phase and name."""

    fisher: Fisher | None = None
    """What the version is to carry of its rows, if it is."""
    onto: FoundModel | None = None
    """The model that what training did was carried to, where it was."""
    upheld: tuple[Upheld, ...] = ()
    """How many answers keep the principles that a phase learnt by, before it and after it."""
    curve: CurveEvidence | None = None
    """What the last phases learnt of shares of their rows, where the recipe asks for it."""
    aside: tuple[Checkpoint, ...] = ()
    """As `checkpoints`, of the phases before the last that starts from the base model: what is published is not of
    them, but what a later phase asked."""

    @property
    def stands_on(self) -> Base | None:
        """What a published adapter is put over: the base model, which everyone has; None for dense weights.

        In the work folder it stands on the last phase's start, which has another head: the adapter brings its own. What
        was rounded there is rounded anew by whoever loads it.
        """
        end = self.selection.chosen.end
        if end.form == "dense":
            return None
        if self.onto and end.base and end.base.weights == self.onto.weights:
            return end.base
        began = next((phase.tuning for phase in self.recipe.chain if phase.tuning.leaves == "adapter"), None)
        rounded = began.quantization if began else None
        model = self.model
        return model.base or Base(name=model.name, weights=model.weights, uri=model.uri, quantization=rounded)

    @property
    def ends(self) -> tuple[Checkpoint, ...]:
        """Return `base` and each phase's end."""
        made = {phase.name for phase in self.recipe.phases}
        return tuple(end for i, end in enumerate(self.trained) if i == 0 or end.phase in made)

    @property
    def trained(self) -> tuple[Checkpoint, ...]:
        """Return all checkpoints in the order in which they were made."""
        return (*self.checkpoints[:1], *self.aside, *self.checkpoints[1:])

    @property
    def answering(self) -> tuple[Checkpoint, ...]:
        """Return the checkpoints that have the published head, from its start on: those that are measured."""
        before = {phase.name for phase in self.recipe.phases} - {phase.name for phase in self.recipe.answering_phases}
        first = max((i + 1 for i, one in enumerate(self.checkpoints) if one.phase in before), default=0)
        return self.checkpoints[first:]

    def measured(self, candidate: str) -> dict[str, Measured]:
        """Return what was measured of a candidate on the report splits, by evaluation."""
        cells = (cell for report in self.final for cell in report.measured)
        return {cell.evaluation: cell for cell in cells if cell.candidate == candidate}
