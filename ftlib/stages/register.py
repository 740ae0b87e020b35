"""The chosen candidate to a published, verified version, or a gate's refusal."""

from __future__ import annotations

from typing import ClassVar

from ftlib.artifacts import EvalReport, FoundModel, ModelVersion, PreparedDataset, Refusal, Report, Selection
from ftlib.fingerprint import Job
from ftlib.recipe import Recipe
from ftlib.workspace import Workspace


class RegisterJob(Job):
    """What to publish, with the evidence. Gates are read from `recipe.select.gates` and checked on `final`."""

    stage: ClassVar[str] = "register"
    version: ClassVar[int] = 1

    recipe: Recipe
    model: FoundModel
    prepared: dict[str, PreparedDataset]
    selection: Selection
    final: tuple[EvalReport, ...]
    report: Report


def register(job: RegisterJob, work: Workspace) -> ModelVersion | Refusal:
    """Being written."""
    raise NotImplementedError
