"""What a page is made of. One content, two renderings: the HTML report and the Markdown of run page and model card."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from ftlib.artifacts import Estimate
from ftlib.results import number

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
    known = [estimate for estimate in column if estimate is not None]
    points = [point for estimate in known for point in (estimate.low, estimate.value, estimate.high)] or [0.0]
    points += [0.0] if zero else []
    first, span = min(points), max(points) - min(points)

    def at(value: float) -> float:
        return (value - first) / span if span else 0.5

    return [
        Cell("–", tone="muted")
        if estimate is None
        else Cell(
            signed(estimate.value) if zero else number(estimate.value),
            Bar(at(estimate.low), at(estimate.value), at(estimate.high), at(0.0) if zero else None),
            " to ".join((signed if zero else number)(end) for end in (estimate.low, estimate.high)),
        )
        for estimate in column
    ]


def signed(value: float) -> str:
    """Return a difference with its sign, and a true minus; none where it rounds to zero."""
    text = number(abs(value))
    return text if text == number(0.0) else ("+" if value > 0 else "−") + text


def texts(*values: object) -> list[Cell]:
    """Return plain cells; whole numbers get thousands separators."""
    return [Cell(f"{value:,}" if isinstance(value, int) else str(value)) for value in values]
