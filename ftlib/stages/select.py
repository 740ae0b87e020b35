"""Candidates with reports to the one a stated rule chooses."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from ftlib.evaluation.evaluation import Evaluation
from ftlib.evaluation.measured import EvalReport, KLToStart, tables_in
from ftlib.evaluation.rules import RULES, Rated
from ftlib.evaluation.selection import Select, Selection
from ftlib.fingerprint import Job
from ftlib.merging.candidates import Candidates
from ftlib.workspace import Workspace


class SelectJob(Job):
    """The candidates, what was measured of them on the selection split, and the rule."""

    stage: ClassVar[str] = "select"
    version: ClassVar[int] = 3

    candidates: Candidates
    reports: tuple[EvalReport, ...]
    evaluations: dict[str, Evaluation]
    """The recipe's, for the direction of each metric."""
    select: Select
    seed: int = 0
    """Of the resamples that differences between candidates are judged by."""
    kl: KLToStart | None = None
    """How far every candidate's answers moved from the start's, where the rule asks."""

    introduced: ClassVar[Mapping[str, object]] = {"kl": None}


def select(job: SelectJob, work: Workspace) -> Selection:
    """Choose one candidate by the recipe's rule; of equally good ones, the one nearest to theta0.

    Gates are not looked at: `register` holds them against the report split. Raises RecipeError if a metric that the
    rule names was not measured for every candidate, or no candidate lies at a fixed alpha; DataError if it is undefined
    on the rows for one of them; StorageError if a table of outcomes is gone.
    """

    def build(folder: Path) -> Selection:
        """Apply the rule, and say what it went by."""
        del folder  # the record is all there is
        rated = Rated(
            job.select, job.candidates.members, job.reports, job.evaluations, tables_in(work), job.seed, job.kl
        )
        chosen, rule, why = RULES[job.select.rule](rated)
        if rated.undefined:
            return Selection(chosen=job.candidates.members[chosen], rule=rule, why=why)
        beats = rated.by.better_than_both_ends()
        return Selection(
            chosen=job.candidates.members[chosen],
            rule=rule + rated.ties(),
            why=f"{why}{rated.ends()}{rated.endpoint_verdict(chosen, beats)}",
            beats_both_ends=tuple(rated.names[i] for i in beats),
            expected=rated.expected,
            curve=rated.curve(),
            kl=job.kl,
        )

    selection = work.once(job, Selection, build)
    # A record keeps no folders: the checkpoints are taken from the job, which knows where they are today.
    chosen = next(c for c in job.candidates.members if c.digest() == selection.chosen.digest())
    return selection.model_copy(update={"chosen": chosen})
