"""A run's measurements as rows: for the terminal's last table, for --json, and for the report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import isnan
from typing import TYPE_CHECKING, Any, Literal

from ftlib.config import Config
from ftlib.errors import DataError
from ftlib.evaluation.bootstrap import Resampling, defined, paired_resamples
from ftlib.evaluation.evaluation import Evaluation
from ftlib.evaluation.measured import Estimate, EvalReport, Measured
from ftlib.evaluation.metrics.base import MetricBase
from ftlib.evaluation.selection import Selection
from ftlib.evaluation.significance import bootstrap_p, holm, mcnemar_p
from ftlib.kinds.outcomes import LabelOutcomes, Outcomes
from ftlib.models.checkpoint import Checkpoint
from ftlib.wording import counted

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float, Int

Verdict = Literal["better", "worse", "undecided", "undefined"]

UNDEFINED = "undefined"
"""What tables say of a metric that has no value on these rows."""


class Result(Config):
    """One model on one evaluation's report split."""

    model: str
    """The candidate's name; the chosen one's says so."""
    chosen: bool
    evaluation: str
    role: str
    rows: int
    metrics: dict[str, Estimate]
    signatures: dict[str, str] = {}


class Difference(Config):
    """One model against another on the same rows, metric by metric: a paired comparison."""

    ours: str
    theirs: str
    evaluation: str
    metric: str
    estimate: Estimate
    """ours - theirs, in the metric's own unit."""
    confidence: float
    higher_is_better: bool
    p: float | None
    """Of no difference: McNemar's exact test for accuracy, the paired bootstrap for everything else; None where the
    metric is undefined for one of them."""
    adjusted_p: float | None = None
    """By Holm over everything that a report compares; None for a comparison that stands alone."""
    verdict: Verdict = "undecided"
    """better or worse, with the metric's direction, where p (adjusted, if it is) is at most 1 - confidence; undefined
    where there is no p."""
    identical_rows: int | None = None
    """How many rows both answered, where every answer and so this metric is the same; else None."""

    def line(self) -> str:
        """Say it in one line."""
        between = f"{self.evaluation}/{self.metric}: {self.ours} minus {self.theirs}"
        if self.p is None:
            return f"{between} is undefined: {self.estimate.undefined}"
        if self.identical_rows:
            return f"{between}: identical answers on {counted(self.identical_rows, 'row')}"
        return f"{between} {interval_text(self.estimate)}, p {self.p_text()} (Holm): {self.verdict}"

    def p_text(self) -> str:
        """Return the p-value that the verdict goes by, as tables write it: none is zero."""
        p = self.p if self.adjusted_p is None else self.adjusted_p
        if p is None:
            return "–"
        return "< 0.001" if p < 0.001 else f"{p:.3f}"

    def judged(self, adjusted_p: float | None) -> Difference:
        """Return it with the verdict that this adjustment, or none, gives."""
        p = self.p if adjusted_p is None else adjusted_p
        if p is None or self.estimate.value is None:
            return self.model_copy(update={"verdict": "undefined"})
        verdict: Verdict = "undecided"
        if p <= 1.0 - self.confidence and self.estimate.value != 0.0:
            verdict = "better" if (self.estimate.value > 0.0) == self.higher_is_better else "worse"
        return self.model_copy(update={"adjusted_p": adjusted_p, "verdict": verdict})


def results(
    final: Sequence[EvalReport], selection: Selection, evaluations: dict[str, Evaluation]
) -> tuple[Result, ...]:
    """Return a row per evaluation and model, in the order they were measured; the chosen one's comes last."""
    cells = {(cell.evaluation, cell.candidate): cell for report in final for cell in report.measured}
    chosen = selection.chosen.name
    ordered = sorted(
        cells.values(), key=lambda cell: (list(evaluations).index(cell.evaluation), cell.candidate == chosen)
    )
    return tuple(
        Result(
            model=f"chosen ({cell.candidate})" if cell.candidate == chosen else cell.candidate,
            chosen=cell.candidate == chosen,
            evaluation=cell.evaluation,
            role=evaluations[cell.evaluation].role,
            rows=cell.rows,
            metrics=cell.metrics,
            signatures=cell.signatures,
        )
        for cell in ordered
    )


def text_table(rows: Sequence[Result]) -> list[list[str]]:
    """Return a header and one line per result, as strings; a metric that an evaluation lacks is a dash."""
    metrics = list(dict.fromkeys(metric for row in rows for metric in row.metrics))
    body = [
        [row.evaluation, row.model, str(row.rows), *(interval_text(row.metrics.get(metric)) for metric in metrics)]
        for row in rows
    ]
    return [["evaluation", "model", "rows", *metrics], *body]


def interval_text(estimate: Estimate | None) -> str:
    """Return `0.812 [0.790, 0.834]`, or that it is undefined; a dash for what was not measured."""
    if estimate is None:
        return "–"
    if (three := estimate.numbers()) is None:
        return UNDEFINED
    low, value, high = map(number, three)
    return f"{value} [{low}, {high}]"


def number(value: float) -> str:
    """Return three decimals for what lies near one, four digits for what is large; nan is undefined."""
    if isnan(value):
        return UNDEFINED
    return f"{value:.3f}" if abs(value) < 10 else f"{value:,.4g}"


def retained_reference(checkpoints: Sequence[Checkpoint]) -> Checkpoint | None:
    """Return what forgetting is measured against: the base model, or theta0 where the base model's head is random.

    None if both heads are: then there was no skill to forget that this head could show.
    """
    theta0 = checkpoints[max(0, len(checkpoints) - 2)]
    return next((checkpoint for checkpoint in (checkpoints[0], theta0) if not checkpoint.fresh_head), None)


def differences(
    ours: str,
    theirs: str,
    final: Sequence[EvalReport],
    evaluations: dict[str, Evaluation],
    load: Callable[[Measured], Outcomes],
    seed: int,
) -> Iterator[Difference]:
    """Yield `ours - theirs` for every evaluation and metric on which both were measured."""
    for name, evaluation in evaluations.items():
        cells = {cell.candidate: cell for report in final for cell in report.measured if cell.evaluation == name}
        if ours not in cells or theirs not in cells:
            continue
        tables = load(cells[ours]), load(cells[theirs])
        resampling = Resampling(evaluation.resamples, evaluation.confidence, seed)
        identical = len(tables[0]) if _identical(*tables) else None
        for metric in evaluation.metrics:
            estimate, p = _compared(metric, tables, resampling)
            yield Difference(
                ours=ours,
                theirs=theirs,
                evaluation=name,
                metric=metric.name,
                estimate=estimate,
                confidence=evaluation.confidence,
                higher_is_better=metric.higher_is_better,
                p=p,
                identical_rows=identical if estimate.numbers() == (0.0, 0.0, 0.0) else None,
            ).judged(None)


def _identical(ours: Outcomes, theirs: Outcomes) -> bool:
    """Say whether two models gave the same rows the same answers; where a kind has no answers, to the last digit."""
    import numpy as np

    if ours.row_ids != theirs.row_ids:
        return False
    answers: list[Any] = [getattr(table, "predicted", None) for table in (ours, theirs)]
    if all(given is not None for given in answers):
        labels: list[Any] = [getattr(table, "labels", ()) for table in (ours, theirs)]
        return labels[0] == labels[1] and np.array_equal(answers[0], answers[1])
    mine, other = ours.columns(), theirs.columns()
    same = mine.keys() == other.keys() and all(mine[name].equals(other[name]) for name in mine)
    return same and np.array_equal(ours.nll, theirs.nll)


def _compared(
    metric: MetricBase, tables: tuple[Outcomes, Outcomes], resampling: Resampling
) -> tuple[Estimate, float | None]:
    """Return the difference with its interval and its p-value: McNemar's where rows are right or wrong."""
    drawn = paired_resamples(metric, *tables, resampling)
    whole = metric.compute(tables[0]) - metric.compute(tables[1])
    estimate = resampling.interval(whole, drawn, metric.undefined_where)
    if estimate.value is None:
        return estimate, None
    right = [metric.right(table) for table in tables]
    p = bootstrap_p(defined(drawn)) if right[0] is None or right[1] is None else mcnemar_p(right[0], right[1])
    return estimate, p


def divergence(
    reference: LabelOutcomes, ours: LabelOutcomes, resampling: Resampling
) -> tuple[Estimate, Float[np.ndarray, " resamples"]]:
    """Return the mean of KL(reference || ours) over rows, in nats, and its resamples: how far answers moved.

    Raises DataError for other rows, or other labels.
    """
    import numpy as np
    from scipy.special import rel_entr

    if (reference.row_ids, reference.labels) != (ours.row_ids, ours.labels):
        raise DataError(
            f"a divergence needs the same rows and labels; got {counted(len(reference), 'row')}, "
            f"{counted(len(reference.labels), 'label')} and {counted(len(ours), 'row')}, "
            f"{counted(len(ours.labels), 'label')}"
        )
    # float32 ends at 1e-45: an answer it cannot hold would make the divergence infinite.
    floor = np.finfo(np.float32).tiny
    p, q = (table.probabilities.astype(np.float64).clip(min=floor) for table in (reference, ours))
    rows = rel_entr(p, q).sum(axis=1)
    drawn = np.concatenate([rows[draw].mean(axis=1) for draw in resampling.draws(len(rows))])
    return resampling.interval(float(rows.mean()), drawn), drawn


def divergence_per_token(
    sums: Float[np.ndarray, " rows"], tokens: Int[np.ndarray, " rows"], resampling: Resampling
) -> tuple[Estimate, Float[np.ndarray, " resamples"]]:
    """Return the mean divergence per token from each row's sum and number of tokens, rows drawn together."""
    import numpy as np

    blocks = [sums[draw].sum(axis=1) / tokens[draw].sum(axis=1).clip(min=1) for draw in resampling.draws(len(sums))]
    drawn = np.concatenate(blocks)
    return resampling.interval(float(sums.sum() / max(1, tokens.sum())), drawn), drawn


def adjusted(compared: Sequence[Difference]) -> list[Difference]:
    """Return comparisons that are read together with their p-values adjusted by Holm over all of them."""
    p_values = iter(holm([difference.p for difference in compared if difference.p is not None]))
    return [difference.judged(None if difference.p is None else next(p_values)) for difference in compared]
