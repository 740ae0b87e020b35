"""Measured models on the terminal: whole names and whole numbers, however narrow it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from ftlib.evaluation.measured import Estimate
from ftlib.evaluation.results import Difference, interval_text

if TYPE_CHECKING:
    from rich.console import Console

_GAP = 3  # blanks that rich puts between two columns without a frame


@dataclass(frozen=True)
class Line:
    """One model and what was measured of it; a metric that is not there is shown as a dash."""

    model: str
    metrics: dict[str, Estimate]
    bold: bool = False


def print_results(console: Console, title: str, lines: Sequence[Line]) -> None:
    """Print one table, or several below each other where the metrics do not fit side by side.

    A name breaks between its words at most. Where not even one metric fits beside the names, each model is a line of
    its own with its metrics below.
    """
    metrics = list(dict.fromkeys(chain.from_iterable(line.metrics for line in lines)))
    widths = [max(map(len, [metric, *(_cell(line, metric) for line in lines)])) for metric in metrics]
    names = _name_width(lines, console.width - sum(_GAP + width for width in widths))
    if not metrics or names + _GAP + max(widths) > console.width:
        _print_list(console, title, metrics, lines)
        return
    for i, columns in enumerate(_fitting(metrics, widths, console.width - names)):
        _print_table(console, title if i == 0 else None, names, columns, lines)


def print_differences(console: Console, compared: Sequence[Difference]) -> None:
    """Print what each model differs by from the one it was compared with, a line each."""
    for difference in compared:
        console.print(difference.line(), soft_wrap=True)


def _cell(line: Line, metric: str) -> str:
    return interval_text(line.metrics.get(metric))


def _name_width(lines: Sequence[Line], room: int) -> int:
    """Return the width of the names in one line each if that leaves room for everything else, or of their words."""
    whole = max(map(len, ["model", *(line.model for line in lines)]))
    return whole if whole <= room else max(map(len, ["model", *(w for line in lines for w in line.model.split())]))


def _fitting(metrics: Sequence[str], widths: Sequence[int], room: int) -> list[list[str]]:
    """Return the metrics in groups that fit into the room, in their order."""
    groups: list[list[str]] = [[]]
    left = room
    for metric, width in zip(metrics, widths, strict=True):
        if groups[-1] and left < _GAP + width:
            groups.append([])
            left = room
        groups[-1].append(metric)
        left -= _GAP + width
    return groups


def _print_table(
    console: Console, title: str | None, names: int, metrics: Sequence[str], lines: Sequence[Line]
) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    # Without a frame, three metrics with intervals fit into 80 columns.
    table = Table(title=title and Text(title), title_justify="left", box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("model", min_width=names, max_width=names)
    for metric in metrics:
        table.add_column(Text(metric), no_wrap=True)
    for line in lines:
        cells = [Text(_cell(line, metric)) for metric in metrics]
        table.add_row(Text(line.model), *cells, style="bold" if line.bold else None)
    console.print(table)


def _print_list(console: Console, title: str, metrics: Sequence[str], lines: Sequence[Line]) -> None:
    from rich.text import Text

    console.print(Text(title, style="italic"), soft_wrap=True)
    for line in lines:
        console.print(Text(line.model, style="bold" if line.bold else ""), soft_wrap=True)
        for metric in metrics:
            console.print(Text(f"  {metric}  {_cell(line, metric)}"), soft_wrap=True)
