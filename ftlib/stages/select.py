"""Candidates with reports to the one a stated rule chooses."""

from __future__ import annotations

from typing import ClassVar

from ftlib.artifacts import Candidates, EvalReport, Selection
from ftlib.fingerprint import Job
from ftlib.recipe import Evaluation, Select
from ftlib.workspace import Workspace


class SelectJob(Job):
    """The candidates, what was measured of them on the selection split, and the rule."""

    stage: ClassVar[str] = "select"
    version: ClassVar[int] = 1

    candidates: Candidates
    reports: tuple[EvalReport, ...]
    evaluations: dict[str, Evaluation]
    """The recipe's, for the direction of each metric."""
    select: Select


def select(job: SelectJob, work: Workspace) -> Selection:
    """Being written."""
    raise NotImplementedError
