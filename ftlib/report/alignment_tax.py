"""What a fine-tune gains on its target against what it loses elsewhere, at every alpha: the alignment tax."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftlib.config import SELECTION
from ftlib.evaluation.bootstrap import Resampling, difference
from ftlib.evaluation.kl_to_start import Asked, kl, predicted
from ftlib.evaluation.measured import Estimate, Measured, tables_in
from ftlib.evaluation.results import number
from ftlib.kinds.kind import KINDS
from ftlib.recipe.evidence import Evidence
from ftlib.report.content import Cell, Figure, Row, Section, Table, estimates_on_one_scale, signed
from ftlib.report.figures import CHOSEN, INK, PALETTE, canvas, legend_below, plain, saved
from ftlib.report.tradeoff import Line, Point, tradeoff_panel
from ftlib.workspace import Workspace


@dataclass(frozen=True)
class Tax:
    """Gains and losses at every alpha, on the selection rows, each candidate paired with the start."""

    alphas: tuple[float, ...]
    chosen: int
    names: tuple[str, ...]
    gain: Line
    """Of what the rule goes by; more is better, whatever the metric's direction."""
    lost: Line | None
    """Of a retained skill; more is worse."""
    kl: tuple[Estimate | None, ...]
    """KL to the start on the target's own rows, where it was measured; empty where answers have none."""
    per: str = "row"
    budgeted: bool = False
    """Whether the rule held KL within a budget."""
    snapshot: str = ""
    """The snapshot that the line starts at, which has gone a part of the phase's way; empty where it is the start."""

    @property
    def end_kl(self) -> float | None:
        """Return how far theta1 moved, from which the curve is predicted."""
        end = self.kl[-1] if self.kl else None
        return end.value if end else None


def tax_of(evidence: Evidence, work: Workspace, target: str, retained: str | None) -> Tax | None:
    """Return what the line between the ends gains and loses; None where candidates are no line, or a metric undefined.

    Both are evaluation/metric. KL of classifiers is read from tables; of a language model it is what the rule had
    measured of every candidate, else a pass with theta1 alone, and only beside a retained skill.
    """
    members = evidence.candidates.members
    alphas = tuple(member.alpha for member in members if member.alpha is not None)
    if len(members) < 3 or len(set(alphas)) < len(members):
        return None
    gain = _against_start(evidence, work, target, 1.0)
    lost = _against_start(evidence, work, retained, -1.0) if retained else None
    if gain is None:
        return None
    names = tuple(member.name for member in members)
    moved = _moved(evidence, work, target.partition("/")[0], alone=lost is None)
    by = KINDS[evidence.prepared[evidence.recipe.evaluations[target.partition("/")[0]].dataset].kind].diverges_by
    if lost is None and not any(moved):
        return None
    chosen = names.index(evidence.selection.chosen.name)
    return Tax(
        alphas,
        chosen,
        names,
        gain,
        lost,
        moved,
        by or "row",
        evidence.selection.kl is not None,
        members[0].start.snapshot,
    )


def _cells(evidence: Evidence, evaluation: str) -> list[Measured]:
    cells = {cell.candidate: cell for r in evidence.sweep for cell in r.measured if cell.evaluation == evaluation}
    return [cells[member.name] for member in evidence.candidates.members]


def _against_start(evidence: Evidence, work: Workspace, path: str, sign: float) -> Line | None:
    """Return how much better (sign 1) or worse (-1) every candidate is than the start; None where that is undefined."""
    name, _, metric_name = path.partition("/")
    evaluation = evidence.recipe.evaluations[name]
    metric = next(metric for metric in evaluation.metrics if metric.name == metric_name)
    resampling = Resampling(evaluation.resamples, evaluation.confidence, evidence.recipe.seed)
    start, *others = (tables_in(work)(cell) for cell in _cells(evidence, name))
    direction = sign if metric.higher_is_better else -sign
    points = [Point(0.0, 0.0, 0.0)]
    for table in others:
        three = difference(metric, table, start, resampling).numbers()
        if three is None:
            return None
        low, high = sorted((direction * three[0], direction * three[2]))
        points.append(Point(low, direction * three[1], high))
    return Line(name, metric_name, tuple(points))


def _moved(evidence: Evidence, work: Workspace, name: str, *, alone: bool) -> tuple[Estimate | None, ...]:
    """Return every candidate's KL to the start on an evaluation's selection rows, None where nobody measured it."""
    recipe, members = evidence.recipe, evidence.candidates.members
    known = evidence.selection.kl
    if known and known.evaluation == name:
        return tuple(one.kl for one in known.moved)
    evaluation = recipe.evaluations[name]
    data = evidence.prepared[evaluation.dataset]
    by = KINDS[data.kind].diverges_by
    if by is None or (by == "token" and alone):
        return ()
    asked = Asked(
        name, data, SELECTION, Resampling(evaluation.resamples, evaluation.confidence, recipe.seed), recipe.compute
    )
    task = recipe.datasets[evaluation.dataset].task
    cells = _cells(evidence, name)
    moved: list[Estimate | None] = []
    for i, member in enumerate(member.of_task(task) for member in members):
        asks = by == "row" or i in (0, len(members) - 1)
        told = kl(asked, work, member.start, member, cells[0], cells[i]) if asks else None
        moved.append(told[0] if told else None)
    return tuple(moved)


def tax_section(tax: Tax, folder: Path) -> Section:
    """Return gains, losses and distances at every alpha, each beside what theta1 alone predicts of it."""
    target, elsewhere = tax.gain.label, f" and {tax.lost.label}" if tax.lost else ""
    start = f"the start, which is the phase's {tax.snapshot}" if tax.snapshot else "the start"
    lead = f"Every candidate against {start}, paired on the validation rows: {target}{elsewhere}. "
    if tax.kl:
        lead += (
            f"KL to the start is on the target's own rows, in nats per {tax.per}; what is forgotten of everything else "
            "follows it. "
        )
    lead += "Predicted is what theta1 alone says of each alpha: α² of its own" + (
        ", as near the start KL grows with the squared step, and forgetting with KL." if tax.kl else "."
    )
    # Where nothing is held against the gain, a table says it.
    figures = [_figure(tax, folder)] if tax.lost or tax.budgeted else []
    return Section("tax", "Gain against loss along alpha", lead, figures, [_table(tax)])


def _table(tax: Tax) -> Table:
    """Return a row for every candidate, with what was measured and, beside it, what was predicted."""
    columns = ["candidate", f"gain of {tax.gain.label}"]
    cells = [estimates_on_one_scale([_estimate(point) for point in tax.gain.values], zero=True)]
    numeric: set[int] = set()
    if tax.lost:
        columns += [f"loss of {tax.lost.label}", "predicted loss"]
        numeric.add(len(columns) - 1)
        cells.append(estimates_on_one_scale([_estimate(point) for point in tax.lost.values], zero=True))
        cells.append([Cell(signed(loss)) for loss in predicted(tax.alphas, tax.lost.values[-1].value)])
    if tax.kl:
        columns += ["KL to the start"]
        cells.append(estimates_on_one_scale(tax.kl))
        if tax.end_kl is not None:
            columns += ["predicted KL"]
            numeric.add(len(columns) - 1)
            cells.append([Cell(number(moved)) for moved in predicted(tax.alphas, tax.end_kl)])
    rows = [
        Row([Cell(name), *(column[i] for column in cells)], "chosen" if i == tax.chosen else "")
        for i, name in enumerate(tax.names)
    ]
    return Table(columns, rows, "validation rows", frozenset(numeric))


def _estimate(point: Point) -> Estimate:
    return Estimate(value=point.value, low=point.low, high=point.high)


def _figure(tax: Tax, folder: Path) -> Figure:
    """Draw gain against loss with the straight line between the ends, and loss and KL against alpha."""
    right = [*([tax.lost] if tax.lost else []), *(["kl"] if tax.kl else [])]
    both = tax.lost is not None
    with canvas(9.6 if both else 6.4, max(4.0, 2.6 * len(right)), len(right), 1 + both) as (figure, grid):
        for axes, what in zip(grid[:, -1], right, strict=True):
            if isinstance(what, Line):
                values = [(alpha, point) for alpha, point in zip(tax.alphas, what.values, strict=True)]
                _predicted(axes, tax, values, f"loss of {what.label}", PALETTE[1])
            else:
                known = zip(tax.alphas, tax.kl, strict=True)
                numbers = [(alpha, one.numbers()) for alpha, one in known if one is not None]
                values = [(alpha, Point(*three)) for alpha, three in numbers if three is not None]
                _predicted(axes, tax, values, f"KL to the start, nats per {tax.per}", PALETTE[2])
        grid[-1, -1].set_xlabel("α")
        if tax.lost:
            for axes in grid[:, 0]:
                axes.remove()
            axes = figure.add_subplot(grid[0, -1].get_gridspec()[:, 0])
            ends = [(line.values[0].value, line.values[-1].value) for line in (tax.lost, tax.gain)]
            axes.plot(*ends, color=INK, linewidth=1.0, linestyle=(0, (2, 3)), alpha=0.6, zorder=1)
            tradeoff_panel(axes, tax.alphas, tax.chosen, tax.lost, tax.gain)
            axes.set_xlabel(plain(f"loss of {tax.lost.label}"))
            axes.set_ylabel(plain(f"gain of {tax.gain.label}"))
            axes.set_title("what the gain costs", loc="left")
        caption = (
            "Left: what the target gains against what is lost, along the line between the ends; dotted, the straight "
            "line between them: a point above it gains more than its share. Right: by alpha. "
            if both
            else "How far answers moved, by alpha. "
        )
        words = (
            "Dots and bars are measured, with confidence intervals, on the validation rows; dashed is α² of theta1's."
        )
        return saved(figure, folder, "alignment_tax", caption + words)


def _predicted(axes: Any, tax: Tax, values: Sequence[tuple[float, Point]], label: str, colour: str) -> None:
    """Draw what was measured as dots with bars, and what theta1's predicts as a dashed curve."""
    alphas, points = [alpha for alpha, _ in values], [point for _, point in values]
    heights = [point.value for point in points]
    # A bootstrap percentile may lie on the other side of the value; a bar cannot be drawn backwards.
    errors = [[max(0.0, p.value - p.low) for p in points], [max(0.0, p.high - p.value) for p in points]]
    axes.errorbar(alphas, heights, yerr=errors, fmt="o", color=colour, markersize=4.2, elinewidth=0.9, label="measured")
    if alphas and alphas[-1] == 1.0:
        fine = [step / 50 for step in range(51)]
        axes.plot(
            fine,
            predicted(fine, heights[-1]),
            color=INK,
            linewidth=1.2,
            linestyle=(0, (5, 3)),
            alpha=0.7,
            label="predicted",
        )
    axes.axvline(
        tax.alphas[tax.chosen],
        color=CHOSEN,
        linewidth=1.2,
        linestyle=(0, (4, 3)),
        label=f"chosen, α = {tax.alphas[tax.chosen]:g}",
    )
    axes.set_title(plain(label), loc="left")
    legend_below(axes)
