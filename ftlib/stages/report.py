"""Everything a run measured, on one page."""

from __future__ import annotations

from typing import ClassVar

from ftlib.artifacts import (
    Candidates,
    Checkpoint,
    EvalReport,
    FoundModel,
    PreparedDataset,
    RawDataset,
    Report,
    Selection,
)
from ftlib.fingerprint import Job
from ftlib.recipe import Recipe
from ftlib.workspace import Workspace


class ReportJob(Job):
    """The run's records. `sweep` are the reports on the selection split, `final` those on the report split."""

    stage: ClassVar[str] = "report"
    version: ClassVar[int] = 1

    recipe: Recipe
    model: FoundModel
    raw: dict[str, RawDataset]
    prepared: dict[str, PreparedDataset]
    checkpoints: tuple[Checkpoint, ...]
    """`base`, then each phase's end."""
    candidates: Candidates
    sweep: tuple[EvalReport, ...]
    selection: Selection
    final: tuple[EvalReport, ...]


def report(job: ReportJob, work: Workspace) -> Report:
    """Being written."""
    raise NotImplementedError
