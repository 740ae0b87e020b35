"""Candidates with reports to the one a stated rule chooses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ftlib.artifacts import Candidate, Candidates, EvalReport, Selection
from ftlib.errors import RecipeError
from ftlib.fingerprint import Job
from ftlib.recipe import Evaluation, Select
from ftlib.workspace import Workspace

_ROUNDING = 1e-12  # 0.65 - 0.63 is more than 0.02 in floating point


class SelectJob(Job):
    """The candidates, what was measured of them on the selection split, and the rule."""

    stage: ClassVar[str] = "select"
    version: ClassVar[int] = 1

    candidates: Candidates
    reports: tuple[EvalReport, ...]
    evaluations: dict[str, Evaluation]
    """The recipe's, for the direction of each metric."""
    select: Select


@dataclass(frozen=True)
class _Scores:
    """One metric of every candidate, in the order of the candidates."""

    path: str
    higher_is_better: bool
    values: tuple[float, ...]

    def better(self, a: float, b: float) -> bool:
        return a > b if self.higher_is_better else a < b

    def best(self, among: Sequence[int]) -> int:
        """Return the best; of equals the first, which is the alpha nearest to theta0."""
        return min(among, key=lambda i: (-self.values[i] if self.higher_is_better else self.values[i], i))

    def drop(self, i: int, reference: int) -> float:
        """Return how much worse `i` is than the reference; negative if it is better."""
        gap = self.values[reference] - self.values[i]
        return gap if self.higher_is_better else -gap


def select(job: SelectJob, work: Workspace) -> Selection:
    """Choose one candidate by the recipe's rule; of equally good ones, the one nearest to theta0.

    Gates are not looked at: `register` holds them against the report split. Raises RecipeError if a metric that the
    rule names was not measured for every candidate.
    """

    def build(folder: Path) -> Selection:
        del folder  # the record is all there is
        chosen, rule, why = _choose(job)
        return Selection(chosen=chosen, rule=rule, why=why)

    selection = work.once(job, Selection, build)
    # A record keeps no folders: the checkpoints are taken from the job, which knows where they are today.
    chosen = next(c for c in job.candidates.members if c.digest() == selection.chosen.digest())
    return selection.model_copy(update={"chosen": chosen})


def _choose(job: SelectJob) -> tuple[Candidate, str, str]:
    members = job.candidates.members
    by = _scores(job, job.select.by)
    everyone = range(len(members))
    if job.select.rule == "best" or job.select.subject_to is None:
        best = by.best(everyone)
        rule = f"the best {by.path} of {len(members)} candidates{_ties(members)}"
        return members[best], rule, f"{_at(members, best, by)} is the best of {len(members)}{_spread(members, by)}."

    bound = _scores(job, job.select.subject_to)
    end = bound.best(_ends(members))
    allowed = [i for i in everyone if bound.drop(i, end) <= job.select.max_drop + _ROUNDING]
    best = by.best(allowed)
    rule = (
        f"the best {by.path} among candidates whose {bound.path} is at most {job.select.max_drop:g} worse than the "
        f"better end's{_ties(members)}"
    )
    why = (
        f"{_at(members, best, by)} is the best among the {len(allowed)} of {len(members)} candidates that stay within "
        f"{job.select.max_drop:g} of the better end, {_at(members, end, bound)}; "
        f"its own is {bound.values[best]:.4f}{_spread(members, by)}."
    )
    return members[best], rule, why


def _scores(job: SelectJob, path: str) -> _Scores:
    evaluation, _, metric = path.partition("/")
    direction = {m.name: m.higher_is_better for e in (job.evaluations.get(evaluation),) if e for m in e.metrics}
    measured = {
        cell.candidate: cell.metrics[metric].value
        for report in job.reports
        for cell in report.measured
        if cell.evaluation == evaluation and metric in cell.metrics
    }
    missing = [member.name for member in job.candidates.members if member.name not in measured]
    if metric not in direction or missing:
        raise RecipeError(
            f"select: {path!r} was not measured for {', '.join(missing) or 'any candidate'}; "
            "name an evaluation and one of its metrics"
        )
    return _Scores(path, direction[metric], tuple(measured[member.name] for member in job.candidates.members))


def _ends(members: Sequence[Candidate]) -> list[int]:
    """Return the positions of alpha 0 and alpha 1; the only candidate is both ends."""
    return sorted({0, len(members) - 1})


def _at(members: Sequence[Candidate], i: int, scores: _Scores) -> str:
    return f"{members[i].name} with {scores.path} {scores.values[i]:.4f}"


def _ties(members: Sequence[Candidate]) -> str:
    return "; of equals, the alpha nearest to 0" if len(members) > 1 else ""


def _spread(members: Sequence[Candidate], by: _Scores) -> str:
    if len(members) == 1:
        return ""
    ends = " and ".join(f"{by.values[i]:.4f} ({members[i].name})" for i in _ends(members))
    return f"; the ends have {by.path} {ends}"
