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

    def best_by(self, i: int, scored: Scores) -> str:
        """Say which candidate it is, and that and how it scores the best."""
        return f"{self.names[i]} (the best {scored.name}, {scored.shown[i]:.4f})"

    def ties(self) -> str:
        """Say what decides between equals, where there are several."""
        return "; of equals, the one nearest to theta0" if len(self.members) > 1 else ""

    def ends(self) -> str:
        """Say in a sentence what the two ends score, where they are two."""
        if len(self.members) == 1:
            return ""
        ends = " and ".join(f"{self.by.shown[i]:.4f} ({self.names[i]})" for i in (0, len(self.members) - 1))
        return f" The ends have {self.by.name} {'= ' if self.by.summed else ''}{ends}."

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
    by, candidates = rated.by, counted(len(rated.members), "candidate")
    best = by.best(rated.everyone)
    rule = f"the best {by.name} of {candidates}"
    return best, rule, f"{rated.names[best]} has the best {by.name} of {candidates}, {by.shown[best]:.4f}."


def _constrained(rated: Rated) -> tuple[int, str, str]:
    """Choose the best of those that surely lose at most `max_drop` of the other metric against the better end."""
    by, margin = rated.by, rated.rule.max_drop
    bound = rated.scores({rated.rule.subject_to or rated.rule.by: 1.0})
    end = bound.best([0, len(rated.members) - 1])
    allowed = [i for i in rated.everyone if bound.not_worse(i, end, margin)]
    best = by.best(allowed)
    sure = f"with {bound.confidence:.0%} confidence"
    rule = (
        f"the best {by.name} among the candidates whose {bound.name} is, {sure}, at most {margin:g} worse than that of "
        "the better end"
    )
    limit = f"It is the better end by {bound.name}, {bound.shown[end]:.4f}."
    if best != end:
        limit = (
            f"Its {bound.name} is {bound.shown[best]:.4f}; the better end, {rated.names[end]}, has "
            f"{bound.shown[end]:.4f}, and the loss is at most {max(0.0, bound.largest_drop(best, end)):.4f} {sure}."
        )
    why = (
        f"{rated.names[best]} has the best {by.name}, {by.shown[best]:.4f}, of the candidates that keep "
        f"{bound.name} within {margin:g} of the better end's ({len(allowed)} of {len(rated.members)}). {limit}"
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
    line = f"the straight line from {rated.best_by(ahead, by)} to {rated.best_by(bound, other)}"
    if beyond[knee] < _ROUNDING:
        return ahead, rule, f"No candidate lies beyond {line}. So there is no knee, and {rated.names[ahead]} is taken."
    why = (
        f"{rated.names[knee]} lies furthest beyond {line}: by {beyond[knee]:.2g}, with each metric scaled to 0 at one "
        f"of the two and 1 at the other. It has {by.said(knee)} and {other.said(knee)}."
    )
    return knee, rule, why


def _one_standard_error(rated: Rated) -> tuple[int, str, str]:
    by = rated.by
    best = by.best(rated.everyone)
    near = next(i for i in rated.everyone if by.within_one_standard_error(i, best))
    rule = f"the candidate nearest to theta0 whose {by.name} is within one standard error of the best"
    first = f"{rated.names[best]} has the best {by.name}, {by.shown[best]:.4f}"
    if near == best:
        return near, rule, f"{first}, and no candidate nearer to theta0 is within one standard error of it."
    why = (
        f"{first}. {rated.names[near]}, with {by.shown[near]:.4f}, is the nearest to theta0 of the candidates within "
        "one standard error of it."
    )
    return near, rule, why


def _fixed(rated: Rated) -> tuple[int, str, str]:
    alpha, by = rated.rule.alpha, rated.rule.by
    at = next((i for i, member in enumerate(rated.members) if member.alpha == alpha), None)
    if at is None:
        raise RecipeError(f"select.alpha: no candidate lies at {alpha}; there are {', '.join(rated.names)}")
    score = f"{by} is undefined" if rated.undefined else f"it has {rated.by.said(at)}"
    return at, f"alpha {alpha:g}, whatever was measured", f"{rated.names[at]} was fixed beforehand; {score}."


RULES: dict[str, Callable[[Rated], tuple[int, str, str]]] = {
    "best": _best,
    "constrained": _constrained,
    "knee": _knee,
    "one_standard_error": _one_standard_error,
    "fixed": _fixed,
}
