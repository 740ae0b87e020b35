"""What more training rows would give: for the report, the terminal and scripts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, cast

from ftlib.config import Config
from ftlib.evaluation.bootstrap import Resampling, resamples
from ftlib.evaluation.learning_curve import CurveEvidence, Extrapolation, extrapolate
from ftlib.evaluation.measured import Estimate, Measured, tables_in
from ftlib.evaluation.metrics.base import MetricBase
from ftlib.evaluation.results import interval_text
from ftlib.recipe.evidence import Evidence
from ftlib.report.content import Cell, Figure, Row, Section, Table, signed
from ftlib.report.figures import CHOSEN, SHIFTED, TARGET, panels, plain, saved
from ftlib.workspace import Workspace

_POINTS = 60
"""Of the law, as it is drawn."""


class Learning(Config):
    """One metric by the rows that trained, and what twice as many would give; for scripts."""

    metric: str
    """evaluation/metric."""
    rows: tuple[int, ...]
    values: tuple[Estimate, ...]
    doubled: Estimate
    gain: Estimate
    said: str
    """In a sentence."""
    sure: bool
    """Whether anything can be said of twice the rows."""


def learning(evidence: Evidence, work: Workspace) -> list[Learning]:
    """Return what is said of each evaluation's metric; nothing where no curve was asked for.

    Raises StorageError if a table of outcomes is gone.
    """
    return [
        Learning(
            metric=path,
            rows=curve.rows,
            values=curve.values,
            doubled=curve.doubled,
            gain=curve.gain,
            said=sentence(path, curve),
            sure=not curve.unsure,
        )
        for path, curve in curves(evidence, work).items()
    ]


def curves(evidence: Evidence, work: Workspace) -> dict[str, Extrapolation]:
    """Return each evaluation's curve by evaluation/metric: the rule's own metric first, there or elsewhere."""
    if evidence.curve is None:
        return {}
    by = evidence.recipe.select.by
    first, _, wanted = by.partition("/")
    found: dict[str, Extrapolation] = {}
    for name in sorted(evidence.recipe.evaluations, key=lambda one: one != first):
        kinds = [metric.name for metric in evidence.recipe.evaluations[name].metrics]
        path = f"{name}/{wanted if wanted in kinds else kinds[0]}"
        found[path] = _curve(evidence, evidence.curve, path, work)
    return found


def _curve(evidence: Evidence, measured: CurveEvidence, path: str, work: Workspace) -> Extrapolation:
    """Read the tables of every size and seed, and lay the law through a metric of theirs."""
    recipe, load = evidence.recipe, tables_in(work)
    name, found = recipe.metric(path)
    metric = cast("MetricBase", found)
    evaluation, end = recipe.evaluations[name], recipe.phases[-1].name
    resampling = Resampling(evaluation.resamples, evaluation.confidence, recipe.seed)
    cells: dict[str, Measured] = {
        cell.candidate: cell
        for report in (*measured.reports, *evidence.final)
        for cell in report.measured
        if cell.evaluation == name
    }
    whole = sum(evidence.prepared[part].splits["train"].rows for part in recipe.phases[-1].parts)
    rows: dict[float, list[int]] = {}
    at: dict[float, list[Measured]] = {}
    for one in sorted(measured.ends, key=lambda one: one.share):
        rows.setdefault(one.share, []).append(one.rows)
        at.setdefault(one.share, []).append(cells[one.checkpoint.phase])
    rows[1.0] = [whole]
    at.setdefault(1.0, []).append(cells[end])
    tables = [[load(cell) for cell in of_size] for of_size in at.values()]
    return extrapolate(
        [round(fmean(of_size)) for of_size in rows.values()],
        [[metric.compute(table) for table in of_size] for of_size in tables],
        [[resamples(metric, table, resampling) for table in of_size] for of_size in tables],
        resampling,
        higher_is_better=metric.higher_is_better,
        best=metric.best,
    )


def sentence(path: str, curve: Extrapolation) -> str:
    """Say in a sentence what twice the rows would give."""
    last = curve.rows[-1]
    asked = f"{2 * last:,} training rows in place of {last:,}"
    if curve.unsure:
        return f"What {asked} would give {path} cannot be said: {curve.unsure}."
    gain = curve.gain.numbers()
    assert gain is not None
    low, value, high = map(signed, gain)
    return f"{asked.capitalize()} would give {path} about {interval_text(curve.doubled)}, {value} [{low}, {high}]."


def learning_section(evidence: Evidence, work: Workspace, folder: Path) -> Section | None:
    """Return the curves, the plot written to `folder`; None where none was asked for."""
    asked = evidence.recipe.learning_curve
    found = curves(evidence, work)
    if asked is None or not found:
        return None
    again = [phase.name for phase in evidence.recipe.learning_phases]
    seeds = len(asked.seeds) + 1
    lead = " ".join(sentence(path, curve) for path, curve in found.items())
    noise = (
        f"Each size was trained with {seeds} seeds, which the intervals count."
        if asked.seeds
        else "One training a size: the intervals are of the test rows alone, and another seed would move points, too."
    )
    return Section(
        "learning-curve",
        "More rows",
        f"{lead} Trained again on shares of the rows: {', then '.join(again)}. {noise}",
        figures=[_figure(found, folder)],
        tables=[_table(found)],
    )


def _table(found: dict[str, Extrapolation]) -> Table:
    rows: list[Row] = []
    for path, curve in found.items():
        for count, value in zip(curve.rows, curve.values, strict=True):
            rows.append(Row([Cell(path, code=True), Cell(f"{count:,}"), Cell(interval_text(value)), Cell("measured")]))
        said, tone = ("cannot say", "muted") if curve.unsure else ("extrapolated", "")
        text = "–" if curve.unsure else interval_text(curve.doubled)
        rows.append(Row([Cell(path, code=True), Cell(f"{2 * curve.rows[-1]:,}"), Cell(text), Cell(said, tone=tone)]))
    return Table(
        ["metric", "training rows", "value", ""],
        rows,
        "The last phase's end by the rows it learnt of",
        frozenset({1, 2}),
    )


def _figure(found: dict[str, Extrapolation], folder: Path) -> Figure:
    """Draw each metric against the rows, and the law through it."""
    import numpy as np

    with panels(len(found)) as (figure, grid):
        for axes, (path, curve) in zip(grid, found.items(), strict=True):
            _points(axes, curve.rows, curve.values, TARGET)
            if not curve.unsure:
                a, b, c = curve.law
                count = np.geomspace(curve.rows[0], 2 * curve.rows[-1], _POINTS)
                axes.plot(count, a + b * count**-c, color=SHIFTED, linewidth=1.4, linestyle=(0, (4, 3)))
                _points(axes, [2 * curve.rows[-1]], [curve.doubled], CHOSEN)
            ticks = [*curve.rows, 2 * curve.rows[-1]]
            axes.set_xscale("log")
            axes.set_xticks(ticks, [f"{count:,}" for count in ticks])
            axes.minorticks_off()
            axes.set_xlabel("training rows")
            axes.set_title(plain(path), loc="left")
        return saved(
            figure,
            folder,
            "learning_curve",
            "Blue: measured on the report split, with intervals. Dashed: a + b / rows ^ c through it; its last point "
            "is what it says of twice the rows.",
        )


def _points(axes: Any, rows: Sequence[int], values: Sequence[Estimate], colour: str) -> None:
    told = [(count, *three) for count, value in zip(rows, values, strict=True) if (three := value.numbers())]
    if told:
        count, low, middle, high = map(list, zip(*told, strict=True))
        spread = [
            [m - one for m, one in zip(middle, low, strict=True)],
            [one - m for m, one in zip(middle, high, strict=True)],
        ]
        spread = [[max(0.0, one) for one in side] for side in spread]
        axes.errorbar(count, middle, yerr=spread, fmt="o", color=colour, capsize=3, markersize=5, linewidth=1.2)
