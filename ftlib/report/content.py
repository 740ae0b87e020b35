"""What a page is made of. One content, two renderings: the HTML report and the Markdown of run page and model card."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from ftlib.evaluation.measured import Estimate
from ftlib.evaluation.results import UNDEFINED, number

Tone = Literal["", "good", "bad", "muted"]
Mark = Literal["", "chosen", "worst"]


@dataclass(frozen=True)
class Bar:
    """An interval drawn in a cell: positions between 0 and 1 on the scale that its column shares."""

    low: float
    value: float
    high: float
    zero: float | None = None
    """Where zero lies, if the scale holds it."""


@dataclass(frozen=True)
class Cell:
    """One cell of a table."""

    text: str
    bar: Bar | None = None
    range: str = ""
    """The interval in words."""
    tone: Tone = ""
    code: bool = False


@dataclass(frozen=True)
class Row:
    """A table's row; a marked one is the one to look at, and why."""

    cells: Sequence[Cell]
    mark: Mark = ""


@dataclass(frozen=True)
class Table:
    """A table; `numeric` columns are aligned right."""

    columns: Sequence[str]
    rows: Sequence[Row]
    caption: str = ""
    numeric: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Figure:
    """A plot: its file name without the suffix, and what it shows, in words."""

    name: str
    svg: str
    caption: str


@dataclass(frozen=True)
class Section:
    """A heading with what belongs under it."""

    id: str
    title: str
    lead: str = ""
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()


@dataclass(frozen=True)
class Tile:
    """One large number at the top of the page."""

    value: str
    label: str
    note: str
    tone: Tone = ""


@dataclass(frozen=True)
class Page:
    """The whole report."""

    title: str
    subtitle: str
    verdict: str
    tiles: Sequence[Tile] = ()
    sections: Sequence[Section] = field(default_factory=tuple[Section, ...])


def estimates_on_one_scale(column: Sequence[Estimate | None], *, zero: bool = False) -> list[Cell]:
    """Return cells whose bars can be compared down the column; with `zero`, the scale holds it and shows it."""
    numbers = [None if estimate is None else estimate.numbers() for estimate in column]
    points = [point for three in numbers if three is not None for point in three] or [0.0]
    points += [0.0] if zero else []
    first, span = min(points), max(points) - min(points)

    def at(value: float) -> float:
        return (value - first) / span if span else 0.5

    def cell(estimate: Estimate | None, three: tuple[float, float, float] | None) -> Cell:
        if three is None:
            return Cell("–" if estimate is None else UNDEFINED, tone="muted")
        low, value, high = three
        say = signed if zero else number
        bar = Bar(at(low), at(value), at(high), at(0.0) if zero else None)
        return Cell(say(value), bar, f"{say(low)} to {say(high)}")

    return [cell(estimate, three) for estimate, three in zip(column, numbers, strict=True)]


def signed(value: float) -> str:
    """Return a difference with its sign, and a true minus; none where it rounds to zero."""
    text = number(abs(value))
    return text if text == number(0.0) else ("+" if value > 0 else "−") + text


def texts(*values: object) -> list[Cell]:
    """Return plain cells; whole numbers get thousands separators."""
    return [Cell(f"{value:,}" if isinstance(value, int) else str(value)) for value in values]
