"""Candidates on one split of one evaluation: per-example outcomes, and metrics computed from them."""

from __future__ import annotations

from typing import ClassVar

from ftlib.artifacts import Candidate, EvalReport, PreparedDataset
from ftlib.config import Split
from ftlib.fingerprint import Job
from ftlib.recipe import Compute, Evaluation
from ftlib.workspace import Workspace


class EvaluateJob(Job):
    """Which candidates, on which rows, measured how. Outcomes are cached per (weights, rows), not per job."""

    stage: ClassVar[str] = "evaluate"
    version: ClassVar[int] = 1

    name: str
    """The evaluation's name in the recipe."""
    evaluation: Evaluation
    candidates: tuple[Candidate, ...]
    data: PreparedDataset
    split: Split
    seed: int
    compute: Compute


def evaluate(job: EvaluateJob, work: Workspace) -> EvalReport:
    """Being written."""
    raise NotImplementedError
