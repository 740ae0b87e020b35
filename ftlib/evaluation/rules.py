"""The rules that choose one of several candidates, each with the words that say why."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from ftlib.errors import DataError, RecipeError
from ftlib.evaluation.bootstrap import Resampling
from ftlib.evaluation.candidate_scores import Scores, scores
from ftlib.evaluation.evaluation import Evaluation
from ftlib.evaluation.measured import Estimate, EvalReport, KLToStart, Tables
from ftlib.evaluation.selection import UNMEASURED, CurvePoint, Select
from ftlib.evaluation.smoothing import LEAST
from ftlib.kinds.outcomes import LabelOutcomes
from ftlib.merging.candidates import Candidate
from ftlib.wording import counted

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float

_ROUNDING = 1e-9  # shares of a line are quotients of differences
_STEPS = 50
"""Of the curve that is drawn."""


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
        kl: KLToStart | None = None,
    ) -> None:
        self.rule = rule
        self.kl = kl
        self.members = members
        self.names = [member.name for member in members]
        self.everyone = range(len(members))
        self._reports, self._evaluations, self._tables, self._seed = reports, evaluations, tables, seed
        self.undefined = rule.rule in UNMEASURED and not self._defined(rule.by)
        """Only rules that decide by no metric may name one that the rows do not define."""

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

    @cached_property
    def alphas(self) -> list[float]:
        """Return where on the line each candidate lies. Raises RecipeError if they are no line."""
        alphas = [member.alpha for member in self.members if member.alpha is not None]
        if len(alphas) < len(self.members) or len(set(alphas)) < len(alphas):
            raise RecipeError(
                f"select: {self.names[0]} to {self.names[-1]} are no line with one candidate at each alpha; "
                "interpolate by wise_ft, or choose by a rule that needs no alpha"
            )
        return alphas

    @cached_property
    def expected(self) -> tuple[Estimate, ...]:
        """Return what the curve says of every candidate; nothing where the rule goes by each point."""
        return self._on_curve(self.alphas) if self.rule.smoothed else ()

    def curve(self) -> tuple[CurvePoint, ...]:
        """Return the curve to be drawn; nothing where the rule goes by each point."""
        if not self.rule.smoothed:
            return ()
        at = [step / _STEPS for step in range(_STEPS + 1)]
        return tuple(CurvePoint(alpha=a, expected=e) for a, e in zip(at, self._on_curve(at), strict=True))

    def _on_curve(self, at: Sequence[float]) -> tuple[Estimate, ...]:
        if len(self.alphas) < LEAST:
            raise RecipeError(
                f"select.smoothed: a curve needs at least {LEAST} candidates, ends included; there are "
                f"{len(self.alphas)}: give interpolation.alphas more, or set it to false"
            )
        return self.by.expected(self.alphas, at)

    def best(self, among: Sequence[int]) -> int:
        """Return the best, by the curve where the rule is smoothed; of equals the one nearest to theta0."""
        return (self.by.smoothed(self.alphas) if self.rule.smoothed else self.by).best(among)

    @property
    def best_of(self) -> str:
        """Return what the best is the best of: the metric, or what is expected of it."""
        return f"expected {self.by.name}" if self.rule.smoothed else self.by.name

    def scored(self, i: int) -> str:
        """Return what a candidate scores; on a curve, with its interval and what was measured there."""
        if not self.rule.smoothed:
            return f"{self.by.shown[i]:.4f}"
        three = self.expected[i].numbers()
        assert three is not None
        low, value, high = three
        first = self.by.best(self.everyone)
        others = ", the best" if first == i else f"; the best is {self.names[first]}, {self.by.shown[first]:.4f}"
        return f"{value:.4f} [{low:.4f}, {high:.4f}] (measured {self.by.shown[i]:.4f}{others})"

    def tables_of_ends(self) -> tuple[LabelOutcomes, LabelOutcomes]:
        """Return what both ends answered to the rows of `by`. Raises DataError if they name no single label each."""
        name = self.rule.by.partition("/")[0]
        cells = {c.candidate: c for report in self._reports for c in report.measured if c.evaluation == name}
        start, end = (self._tables(cells[self.names[i]]) for i in (0, -1))
        if not isinstance(start, LabelOutcomes) or not isinstance(end, LabelOutcomes):
            raise DataError(f"select: 'dawin' reads answers of one label per row, which those of {name!r} are not")
        return start, end

    def resampling(self) -> Resampling:
        """Return how the rows of `by` are drawn."""
        evaluation = self._evaluations[self.rule.by.partition("/")[0]]
        return Resampling(evaluation.resamples, evaluation.confidence, self._seed)

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
    candidates = counted(len(rated.members), "candidate")
    best = rated.best(rated.everyone)
    rule = f"the best {rated.best_of} of {candidates}"
    return best, rule, f"{rated.names[best]} has the best {rated.best_of} of {candidates}, {rated.scored(best)}."


def _constrained(rated: Rated) -> tuple[int, str, str]:
    """Choose the best of those that surely lose at most `max_drop` of the other metric against the better end."""
    margin = rated.rule.max_drop
    bound = rated.scores({rated.rule.subject_to or rated.rule.by: 1.0})
    end = bound.best([0, len(rated.members) - 1])
    allowed = [i for i in rated.everyone if bound.not_worse(i, end, margin)]
    best = rated.best(allowed)
    sure = f"with {bound.confidence:.0%} confidence"
    rule = (
        f"the best {rated.best_of} among the candidates whose {bound.name} is, {sure}, at most {margin:g} worse than "
        "that of the better end"
    )
    limit = f"It is the better end by {bound.name}, {bound.shown[end]:.4f}."
    if best != end:
        limit = (
            f"Its {bound.name} is {bound.shown[best]:.4f}; the better end, {rated.names[end]}, has "
            f"{bound.shown[end]:.4f}, and the loss is at most {max(0.0, bound.largest_drop(best, end)):.4f} {sure}."
        )
    why = (
        f"{rated.names[best]} has the best {rated.best_of}, {rated.scored(best)}, of the candidates that keep "
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


def _within(rated: Rated) -> tuple[int, str, str]:
    """Choose the best of those whose answers surely moved from the start's by no more than the budget."""
    budget, path, kl = rated.rule.at_most, rated.rule.divergence, rated.kl
    if kl is None or budget is None:
        raise RecipeError("select: 'within' needs a divergence and at_most")
    allowed = [i for i in rated.everyone if i == 0 or kl.moved[i].at_most <= budget]
    best = rated.best(allowed)
    sure = f"with {rated.by.confidence:.0%} confidence"
    rule = f"the best {rated.best_of} among the candidates whose {path} is, {sure}, at most {budget:g} nats"
    low, value, high = kl.moved[best].kl.numbers() or (0.0, 0.0, 0.0)
    own = "It is the start." if best == 0 else f"Its {path} is {value:.4g} [{low:.4g}, {high:.4g}]."
    beyond = next((i for i in rated.everyone if i not in allowed), None)
    if beyond is not None:
        own += f" {rated.names[beyond]} is the first beyond: at most {kl.moved[beyond].at_most:.4g} {sure}."
    why = (
        f"{rated.names[best]} has the best {rated.best_of}, {rated.scored(best)}, of the candidates within {budget:g} "
        f"nats of the start ({len(allowed)} of {len(rated.members)}). {own}"
    )
    return best, rule, why


def _dawin(rated: Rated) -> tuple[int, str, str]:
    """Choose the candidate nearest to the mean of what DaWin gives each row; it asks which end is surer of it."""
    import numpy as np

    alphas = rated.alphas
    rows = surer_end(*rated.tables_of_ends())
    drawn = np.concatenate([rows[draw].mean(axis=1) for draw in rated.resampling().draws(len(rows))])
    low, mean, high = rated.resampling().interval(float(rows.mean()), drawn).numbers() or (0.0, 0.0, 0.0)
    at = min(rated.everyone, key=lambda i: (round(abs(alphas[i] - mean), 12), i))
    rule = "the candidate nearest to the mean over rows of DaWin's alpha, which reads no label"
    score = f"{rated.rule.by} is undefined" if rated.undefined else f"it has {rated.by.said(at)}"
    why = (
        f"{rated.names[at]} is nearest to {mean:.3f} [{low:.3f}, {high:.3f}], the mean of DaWin's alpha over "
        f"{counted(len(rows), 'row')}: 0 where only theta0 is sure of its answer, 1 where only theta1 is; {score}."
    )
    return at, rule, why


def surer_end(start: LabelOutcomes, end: LabelOutcomes) -> Float[np.ndarray, " rows"]:
    """Return e^-H1 / (e^-H0 + e^-H1) of every row, H the entropies of both ends' answers (Oh et al. 2025, DaWin)."""
    from scipy.special import entr, expit

    h0, h1 = (entr(table.probabilities.astype("float64")).sum(axis=1) for table in (start, end))
    return expit(h0 - h1)


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
    "within": _within,
    "dawin": _dawin,
    "fixed": _fixed,
}
