"""What a run found out before it reports and publishes: every stage's record, in one value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from ftlib.config import Config
from ftlib.data.datasets import PreparedDataset, RawDataset
from ftlib.evaluation.measured import EvalReport, Measured
from ftlib.evaluation.selection import Selection
from ftlib.merging.candidates import Candidates
from ftlib.models.checkpoint import Checkpoint, FoundModel
from ftlib.recipe.recipe import Recipe
from ftlib.training.fisher import Fisher


class Evidence(Config):
    """The records of one run, from the rows to the choice."""

    introduced: ClassVar[Mapping[str, object]] = {"companions": {}, "fisher": None}

    recipe: Recipe
    model: FoundModel
    raw: dict[str, RawDataset]
    prepared: dict[str, PreparedDataset]
    checkpoints: tuple[Checkpoint, ...]
    """`base`, then each phase's end."""
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

    def measured(self, candidate: str) -> dict[str, Measured]:
        """Return what was measured of a candidate on the report splits, by evaluation."""
        cells = (cell for report in self.final for cell in report.measured)
        return {cell.evaluation: cell for cell in cells if cell.candidate == candidate}
