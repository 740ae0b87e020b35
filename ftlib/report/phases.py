"""What each phase did to what the phases before had learnt: a matrix of phases and their datasets."""

from __future__ import annotations

from collections.abc import Sequence

from ftlib.evaluation.measured import Estimate, EvalReport
from ftlib.evaluation.results import Difference
from ftlib.recipe.recipe import Recipe
from ftlib.report.content import Cell, Row, Section, Table, estimates_on_one_scale, signed
from ftlib.report.sections import difference_table


def learnt_in(recipe: Recipe) -> dict[str, str]:
    """Return the last phase that trains on an evaluation's dataset, by evaluation, in the order of the phases.

    Evaluations whose dataset no phase trains on are left out.
    """
    last = {dataset: phase.name for phase in recipe.chain for dataset in phase.parts}
    order = [phase.name for phase in recipe.chain]
    learnt = {name: last[e.dataset] for name, e in recipe.evaluations.items() if e.dataset in last}
    return dict(sorted(learnt.items(), key=lambda item: order.index(item[1])))


def watched_metric(recipe: Recipe, evaluation: str) -> str:
    """Return the metric of an evaluation that the rule names; its first one if there is none."""
    select = recipe.select
    named = [path.partition("/") for path in (select.by, select.subject_to, *select.plus) if path]
    first = recipe.evaluations[evaluation].metrics[0].name
    return next((metric for name, _, metric in named if name == evaluation), first)


def phases_section(
    recipe: Recipe, final: Sequence[EvalReport], chosen: str, compared: Sequence[Difference]
) -> Section | None:
    """Return the matrix; None where no phase follows one that learns from another dataset.

    Rows are the base model, what each phase ended as, and the chosen candidate; columns are the datasets that phases
    learn from, in that order. `compared` are differences of the chosen one from where each was learnt, row by row.
    """
    learnt = learnt_in(recipe)
    ends = [phase.name for phase in recipe.chain]
    earlier = [name for name, phase in learnt.items() if phase != ends[-1]]
    if not earlier:
        return None
    values = {(c.candidate, c.evaluation): c.metrics for report in final for c in report.measured}

    def value(model: str, evaluation: str) -> Estimate | None:
        return values.get((model, evaluation), {}).get(watched_metric(recipe, evaluation))

    models = [name for name in dict.fromkeys(["base", *ends, chosen]) if any(value(name, e) for e in learnt)]
    columns = [estimates_on_one_scale([value(model, name) for model in models]) for name in learnt]
    rows = [
        Row(
            [Cell(f"after {model}" if model in ends else model), *(column[i] for column in columns)],
            "chosen" if model == chosen else "",
        )
        for i, model in enumerate(models)
    ]
    heads = [f"{name} {watched_metric(recipe, name)}".replace("_", " ") for name in learnt]
    tables = [Table(["model", *heads], rows, "test rows; the columns in the order in which they are learnt")]
    changes = [_change(value(ends[-1], name), value(learnt[name], name)) for name in earlier]
    lead = f"{_backward(recipe, earlier, changes, ends[-1])}{_untold(recipe)}"
    if compared:
        tables.append(difference_table(compared, f"{chosen} minus where each was learnt"))
    return Section("phases", "Phase by phase", lead, tables=tables)


def _change(end: Estimate | None, before: Estimate | None) -> float | None:
    if end is None or before is None or end.value is None or before.value is None:
        return None
    return end.value - before.value


def _backward(recipe: Recipe, earlier: Sequence[str], changes: Sequence[float | None], last: str) -> str:
    """Say the mean gain of what was learnt before the last phase, from there to the end: most often a loss."""
    measured = [change for change in changes if change is not None]
    metrics = {watched_metric(recipe, name) for name in earlier}
    if len(measured) < len(earlier) or len(metrics) > 1:
        return "What later phases took from what was learnt before them."
    (metric,) = metrics
    return (
        f"Backward transfer is {signed(sum(measured) / len(measured))} {metric.replace('_', ' ')}: the mean over "
        f"{', '.join(earlier)} of what {last} ends with minus what there was where it was learnt (Lopez-Paz & Ranzato "
        f"2017). {'A fall' if recipe.metric(f'{earlier[0]}/{metric}')[1].higher_is_better else 'A rise'} is forgetting."
    )


def _untold(recipe: Recipe) -> str:
    """Name the datasets that phases learn from and no evaluation measures."""
    measured = {evaluation.dataset for evaluation in recipe.evaluations.values()}
    trained = dict.fromkeys(name for phase in recipe.phases for name in phase.parts)
    untold = [name for name in trained if name not in measured]
    return f" No evaluation measures {', '.join(untold)}, so what is forgotten of that is not known." if untold else ""
