"""Candidates with reports to the one a stated rule chooses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from ftlib.artifacts import Candidates, EvalReport, Selection
from ftlib.candidate_scores import Scores, scores
from ftlib.counted import counted
from ftlib.errors import RecipeError
from ftlib.fingerprint import Job
from ftlib.outcomes import tables_in
from ftlib.recipe_parts import Evaluation, Select
from ftlib.workspace import Workspace

_ROUNDING = 1e-9  # shares of a line are quotients of differences


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


def select(job: SelectJob, work: Workspace) -> Selection:
    """Choose one candidate by the recipe's rule; of equally good ones, the one nearest to theta0.

    Gates are not looked at: `register` holds them against the report split. Raises RecipeError if a metric that the
    rule names was not measured for every candidate, or no candidate lies at a fixed alpha; DataError if it is undefined
    on the rows for one of them; StorageError if a table of outcomes is gone.
    """

    def build(folder: Path) -> Selection:
        del folder  # the record is all there is
        found = _Candidates(job, work)
        chosen, rule, why = _RULES[job.select.rule](found)
        if found.undefined:
            return Selection(chosen=job.candidates.members[chosen], rule=rule, why=f"{why}.")
        beats = found.by.better_than_both_ends()
        return Selection(
            chosen=job.candidates.members[chosen],
            rule=rule + found.ties(),
            why=f"{why}{found.ends()}.{found.endpoint_verdict(chosen, beats)}",
            beats_both_ends=tuple(found.names[i] for i in beats),
        )

    selection = work.once(job, Selection, build)
    # A record keeps no folders: the checkpoints are taken from the job, which knows where they are today.
    chosen = next(c for c in job.candidates.members if c.digest() == selection.chosen.digest())
    return selection.model_copy(update={"chosen": chosen})


class _Candidates:
    """The candidates with what the rule scores them by, and the words they share."""

    def __init__(self, job: SelectJob, work: Workspace) -> None:
        self.rule = job.select
        self.members = job.candidates.members
        self.names = [member.name for member in self.members]
        self.everyone = range(len(self.members))
        self._job, self._work = job, work
        self.undefined = job.select.rule == "fixed" and not self._defined(job.select.by)
        """Only `fixed`, which decides by nothing, may name a metric that the rows do not define."""

    @cached_property
    def by(self) -> Scores:
        return self.scores({self.rule.by: 1.0, **self.rule.plus})

    def _defined(self, path: str) -> bool:
        name, _, metric = path.partition("/")
        cells = [cell for report in self._job.reports for cell in report.measured if cell.evaluation == name]
        return all(cell.metrics[metric].value is not None for cell in cells if metric in cell.metrics)

    def scores(self, terms: Mapping[str, float]) -> Scores:
        job = self._job
        return scores(terms, self.members, job.reports, job.evaluations, tables_in(self._work.root), job.seed)

    def at(self, i: int, scored: Scores) -> str:
        return f"{self.names[i]} with {scored.said(i)}"

    def ties(self) -> str:
        return "; of equals, the one nearest to theta0" if len(self.members) > 1 else ""

    def ends(self) -> str:
        if len(self.members) == 1:
            return ""
        ends = " and ".join(f"{self.by.shown[i]:.4f} ({self.names[i]})" for i in (0, len(self.members) - 1))
        return f"; the ends have {self.by.name} {'= ' if self.by.summed else ''}{ends}"

    def endpoint_verdict(self, chosen: int, beats: list[int]) -> str:
        """Say whether mixing was worth anything: a choice between the ends may owe its lead to chance."""
        if len(self.members) < 3:
            return ""
        measure = f"(paired, {self.by.confidence:.0%}, Holm over {counted(len(self.members) - 2, 'candidate')})"
        if not beats:
            return f" No candidate beats both ends significantly {measure}."
        if chosen in beats:
            return f" It beats both ends significantly {measure}."
        others = ", ".join(self.names[i] for i in beats)
        return f" It does not beat both ends significantly {measure}; {others} would."


def _best(found: _Candidates) -> tuple[int, str, str]:
    by, count = found.by, len(found.members)
    best = by.best(found.everyone)
    return (
        best,
        f"the best {by.name} of {counted(count, 'candidate')}",
        (f"{found.at(best, by)} is the best of {counted(count, 'candidate')}"),
    )


def _constrained(found: _Candidates) -> tuple[int, str, str]:
    by, margin = found.by, found.rule.max_drop
    bound = found.scores({found.rule.subject_to or found.rule.by: 1.0})
    end = bound.best([0, len(found.members) - 1])
    allowed = [i for i in found.everyone if bound.not_worse(i, end, margin)]
    best = by.best(allowed)
    rule = (
        f"the best {by.name} among candidates whose {bound.name} is at most {margin:g} worse than the better end's "
        f"with {bound.confidence:.0%} confidence"
    )
    why = (
        f"{found.at(best, by)} is the best among the {len(allowed)} of {len(found.members)} candidates that are not "
        f"worse by more than {margin:g} than the better end, {found.at(end, bound)}; its own is "
        f"{bound.shown[best]:.4f}, at most {max(0.0, bound.largest_drop(best, end)):.4f} worse"
    )
    return best, rule, why


def _knee(found: _Candidates) -> tuple[int, str, str]:
    by, other = found.by, found.scores({found.rule.subject_to or found.rule.by: 1.0})
    ahead, bound = by.best(found.everyone), other.best(found.everyone)
    beyond = [by.share(i, bound, ahead) + other.share(i, ahead, bound) - 1.0 for i in found.everyone]
    knee = max(found.everyone, key=lambda i: (round(beyond[i], 12), -i))
    rule = (
        f"the candidate furthest beyond the straight line from the best {by.name} to the best {other.name}, and the "
        f"best {by.name} where none lies beyond it"
    )
    line = f"the line from {found.at(ahead, by)} to {found.at(bound, other)}"
    if beyond[knee] < _ROUNDING:
        return ahead, rule, f"no candidate lies beyond {line}, so there is no knee, and {found.at(ahead, by)} is taken"
    why = (
        f"{found.at(knee, by)} and {other.said(knee)} lies {beyond[knee]:.2g} beyond {line}, both scores measured from "
        "one to the other"
    )
    return knee, rule, why


def _one_standard_error(found: _Candidates) -> tuple[int, str, str]:
    by = found.by
    best = by.best(found.everyone)
    near = next(i for i in found.everyone if by.within_one_standard_error(i, best))
    rule = f"the candidate nearest to theta0 whose {by.name} is within one standard error of the best"
    reach = "within one standard error of the best"
    if near == best:
        return near, rule, f"{found.at(best, by)} is the best, and no candidate nearer to theta0 is {reach}"
    why = f"{found.at(near, by)} is the nearest to theta0 of the candidates {reach}, {found.at(best, by)}"
    return near, rule, why


def _fixed(found: _Candidates) -> tuple[int, str, str]:
    wanted = found.rule.alpha
    at = next((i for i, member in enumerate(found.members) if member.alpha == wanted), None)
    if at is None:
        raise RecipeError(f"select.alpha: no candidate lies at {wanted}; there are {', '.join(found.names)}")
    said = f"{found.names[at]} ({found.rule.by} is undefined)" if found.undefined else found.at(at, found.by)
    return at, f"alpha {wanted:g}, whatever was measured", f"{said} was fixed beforehand"


_RULES: dict[str, Callable[[_Candidates], tuple[int, str, str]]] = {
    "best": _best,
    "constrained": _constrained,
    "knee": _knee,
    "one_standard_error": _one_standard_error,
    "fixed": _fixed,
}
