"""The rules that choose one of several candidates, each with the words that say why."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

from ftlib.errors import RecipeError
from ftlib.evaluation.candidate_scores import Scores, scores
from ftlib.evaluation.evaluation import Evaluation
from ftlib.evaluation.measured import EvalReport, Tables
from ftlib.evaluation.selection import Select
from ftlib.merging.candidates import Candidate
from ftlib.wording import counted

_ROUNDING = 1e-9  # shares of a line are quotients of differences


class Rated:
    """The candidates with what the rule scores them by, and the words they share."""

    def __init__(
        self,
        rule: Select,
        members: Sequence[Candidate],
        reports: Sequence[EvalReport],
        evaluations: Mapping[str, Evaluation],
        tables: Tables,
        seed: int,
    ) -> None:
        self.rule = rule
        self.members = members
        self.names = [member.name for member in members]
        self.everyone = range(len(members))
        self._reports, self._evaluations, self._tables, self._seed = reports, evaluations, tables, seed
        self.undefined = rule.rule == "fixed" and not self._defined(rule.by)
        """Only `fixed`, which decides by nothing, may name a metric that the rows do not define."""

    @cached_property
    def by(self) -> Scores:
        """Return the scores that the rule goes by."""
        return self.scores({self.rule.by: 1.0, **self.rule.plus})

    def _defined(self, path: str) -> bool:
        name, _, metric = path.partition("/")
        cells = [cell for report in self._reports for cell in report.measured if cell.evaluation == name]
        return all(cell.metrics[metric].value is not None for cell in cells if metric in cell.metrics)

    def scores(self, terms: Mapping[str, float]) -> Scores:
        """Return what every candidate scores on a sum of metrics: `terms` are their weights by evaluation/metric."""
        return scores(terms, self.members, self._reports, self._evaluations, self._tables, self._seed)

    def at(self, i: int, scored: Scores) -> str:
        """Say which candidate it is and what it scores."""
        return f"{self.names[i]} with {scored.said(i)}"

    def ties(self) -> str:
        """Say what decides between equals, where there are several."""
        return "; of equals, the one nearest to theta0" if len(self.members) > 1 else ""

    def ends(self) -> str:
        """Say what the two ends score."""
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


def _best(rated: Rated) -> tuple[int, str, str]:
    by, count = rated.by, len(rated.members)
    best = by.best(rated.everyone)
    return (
        best,
        f"the best {by.name} of {counted(count, 'candidate')}",
        (f"{rated.at(best, by)} is the best of {counted(count, 'candidate')}"),
    )


def _constrained(rated: Rated) -> tuple[int, str, str]:
    by, margin = rated.by, rated.rule.max_drop
    bound = rated.scores({rated.rule.subject_to or rated.rule.by: 1.0})
    end = bound.best([0, len(rated.members) - 1])
    allowed = [i for i in rated.everyone if bound.not_worse(i, end, margin)]
    best = by.best(allowed)
    rule = (
        f"the best {by.name} among candidates whose {bound.name} is at most {margin:g} worse than the better end's "
        f"with {bound.confidence:.0%} confidence"
    )
    why = (
        f"{rated.at(best, by)} is the best among the {len(allowed)} of {len(rated.members)} candidates that are not "
        f"worse by more than {margin:g} than the better end, {rated.at(end, bound)}; its own is "
        f"{bound.shown[best]:.4f}, at most {max(0.0, bound.largest_drop(best, end)):.4f} worse"
    )
    return best, rule, why


def _knee(rated: Rated) -> tuple[int, str, str]:
    """Choose the candidate furthest beyond the line between the best by either metric, both scaled to 0 and 1."""
    by, other = rated.by, rated.scores({rated.rule.subject_to or rated.rule.by: 1.0})
    ahead, bound = by.best(rated.everyone), other.best(rated.everyone)
    beyond = [by.share(i, bound, ahead) + other.share(i, ahead, bound) - 1.0 for i in rated.everyone]
    knee = max(rated.everyone, key=lambda i: (round(beyond[i], 12), -i))
    rule = (
        f"the candidate furthest beyond the straight line from the best {by.name} to the best {other.name}, and the "
        f"best {by.name} where none lies beyond it"
    )
    line = f"the line from {rated.at(ahead, by)} to {rated.at(bound, other)}"
    if beyond[knee] < _ROUNDING:
        return ahead, rule, f"no candidate lies beyond {line}, so there is no knee, and {rated.at(ahead, by)} is taken"
    why = (
        f"{rated.at(knee, by)} and {other.said(knee)} lies {beyond[knee]:.2g} beyond {line}, both scores measured from "
        "one to the other"
    )
    return knee, rule, why


def _one_standard_error(rated: Rated) -> tuple[int, str, str]:
    by = rated.by
    best = by.best(rated.everyone)
    near = next(i for i in rated.everyone if by.within_one_standard_error(i, best))
    rule = f"the candidate nearest to theta0 whose {by.name} is within one standard error of the best"
    reach = "within one standard error of the best"
    if near == best:
        return near, rule, f"{rated.at(best, by)} is the best, and no candidate nearer to theta0 is {reach}"
    why = f"{rated.at(near, by)} is the nearest to theta0 of the candidates {reach}, {rated.at(best, by)}"
    return near, rule, why


def _fixed(rated: Rated) -> tuple[int, str, str]:
    alpha = rated.rule.alpha
    at = next((i for i, member in enumerate(rated.members) if member.alpha == alpha), None)
    if at is None:
        raise RecipeError(f"select.alpha: no candidate lies at {alpha}; there are {', '.join(rated.names)}")
    chosen = f"{rated.names[at]} ({rated.rule.by} is undefined)" if rated.undefined else rated.at(at, rated.by)
    return at, f"alpha {alpha:g}, whatever was measured", f"{chosen} was fixed beforehand"


RULES: dict[str, Callable[[Rated], tuple[int, str, str]]] = {
    "best": _best,
    "constrained": _constrained,
    "knee": _knee,
    "one_standard_error": _one_standard_error,
    "fixed": _fixed,
}
