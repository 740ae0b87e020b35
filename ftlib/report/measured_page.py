"""The page of finished models that were measured on the same rows: what they score, and whether they differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ftlib.config import REPORT, Split
from ftlib.evaluation.evaluation import Evaluation
from ftlib.evaluation.measured import EvalReport, Measured
from ftlib.evaluation.results import Difference, Result
from ftlib.report import render
from ftlib.report.content import Figure, Page
from ftlib.report.figures import canvas, colours, plain, saved
from ftlib.report.sections import differences_section, results_section
from ftlib.wording import counted

_MOST_COLUMNS = 3
_MOST_LETTERS = 24
"""Of a model's name beside an axis: a folder's path is longer, and its end tells more than its beginning."""


def measured_page(
    recipe: str,
    evaluations: Mapping[str, Evaluation],
    reports: Sequence[EvalReport],
    compared: Sequence[Difference],
    split: Split,
    folder: Path,
) -> Page:
    """Return the page, its plot drawn into the folder; the first model that was measured is what others stand beside.

    `evaluations` are in the order of the page.
    """
    cells = [cell for name in evaluations for report in reports for cell in report.measured if cell.evaluation == name]
    models = list(dict.fromkeys(cell.candidate for cell in cells))
    rows = [_result(cell, evaluations[cell.evaluation].role) for cell in cells]
    confidence = max(evaluation.confidence for evaluation in evaluations.values())
    results = results_section(rows, confidence)
    if split != REPORT:
        lead = f"On the {split} rows, by which candidates are chosen: a model that was chosen by them looks its best."
        tables = [
            replace(table, caption=table.caption.replace("test rows", f"{split} rows")) for table in results.tables
        ]
        results = replace(results, lead=lead, tables=tables)
    results = replace(results, figures=[estimates(folder, cells)])
    shown = [results]
    if len(models) > 1:
        shown.append(differences_section(compared, models[0], ()))
    return Page(
        title=f"{recipe}: {counted(len(models), 'model')} measured",
        subtitle=f"{', '.join(models)} on the {split} rows of {', '.join(evaluations)}.",
        verdict=_verdict(compared, models),
        sections=shown,
    )


def write_page(page: Page, folder: Path) -> Path:
    """Write `report.html` and `report.md` beside the page's plots; return the latter's path."""
    (folder / "report.html").write_text(render.html(page), encoding="utf-8")
    markdown = folder / "report.md"
    markdown.write_text(render.markdown(page), encoding="utf-8")
    return markdown


def estimates(folder: Path, cells: Sequence[Measured]) -> Figure:
    """Draw every metric of every evaluation as a panel, a model a line with its interval."""
    metrics = list(dict.fromkeys((cell.evaluation, metric) for cell in cells for metric in cell.metrics))
    columns = min(_MOST_COLUMNS, max(len(cell.metrics) for cell in cells))
    lines, rows = len({cell.candidate for cell in cells}), -(-len(metrics) // columns)
    with canvas(9.6, rows * (0.85 + 0.3 * lines), rows, columns) as (figure, grid):
        for spare in grid.flat[len(metrics) :]:
            spare.set_visible(False)
        for axes, (evaluation, metric) in zip(grid.flat, metrics, strict=False):
            mine = [cell for cell in cells if cell.evaluation == evaluation]
            for row, (cell, colour) in enumerate(zip(mine, colours(len(mine)), strict=True)):
                three = cell.metrics[metric].numbers()
                if three is not None:
                    low, value, high = three
                    axes.plot([low, high], [row, row], color=colour, linewidth=1.6, alpha=0.6)
                    axes.plot([value], [row], color=colour, marker="o", markersize=6)
            axes.set_yticks(range(len(mine)), [plain(_end(cell.candidate)) for cell in mine])
            axes.set_ylim(len(mine) - 0.5, -0.5)
            axes.locator_params(axis="x", nbins=4)
            axes.set_title(plain(f"{evaluation} · {metric.replace('_', ' ')}"), loc="left")
        return saved(figure, folder, "estimates", "Every metric with its interval, a line for each model.")


def _end(name: str) -> str:
    return name if len(name) <= _MOST_LETTERS else f"…{name[-_MOST_LETTERS:]}"


def _result(cell: Measured, role: str) -> Result:
    return Result(
        model=cell.candidate,
        chosen=False,
        evaluation=cell.evaluation,
        role=role,
        rows=cell.rows,
        metrics=cell.metrics,
        signatures=cell.signatures,
    )


def _verdict(compared: Sequence[Difference], models: Sequence[str]) -> str:
    if len(models) == 1:
        return "One model: there is nothing to compare it with."
    words: list[str] = []
    for name in models[1:]:
        mine = [d for d in compared if d.ours == name]
        better = [f"{d.evaluation} {d.metric}" for d in mine if d.verdict == "better"]
        worse = [f"{d.evaluation} {d.metric}" for d in mine if d.verdict == "worse"]
        said = [f"better on {', '.join(better)}"] if better else []
        said += [f"worse on {', '.join(worse)}"] if worse else []
        words.append(f"{name} is {' and '.join(said)}" if said else f"{name} differs nowhere for certain")
    return f"Against {models[0]}: {'; '.join(words)}."
