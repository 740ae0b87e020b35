"""Labels that may be wrong, of rows that the chosen model did not train on: how many, and which ids."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from ftlib.evaluation.measured import Measured, tables_in
from ftlib.evaluation.suspects import Suspect, ranked, suspects
from ftlib.kinds.outcomes import LabelOutcomes
from ftlib.recipe.evidence import Evidence
from ftlib.report.content import Cell, Row, Section, Table, texts
from ftlib.wording import counted
from ftlib.workspace import Workspace

LISTED = 20
"""Rows that the page lists; the file has all."""
FILE = "suspects.csv"


def found_suspects(evidence: Evidence, work: Workspace) -> list[Suspect] | None:
    """Return what the chosen model suspects in the validation and test rows of every evaluation, likeliest first.

    None where no rows have one label each. Raises StorageError if a table of outcomes is gone.
    """
    load, evaluations = tables_in(work), evidence.recipe.evaluations
    tables = [(cell, load(cell)) for cell in _cells(evidence)]
    if not any(isinstance(table, LabelOutcomes) for _, table in tables):
        return None
    of_cells = (suspects(evaluations[cell.evaluation].dataset, cell.split, table) for cell, table in tables)
    return ranked(one for found in of_cells for one in found)


def _cells(evidence: Evidence) -> Iterator[Measured]:
    chosen = evidence.selection.chosen.name
    reports = (*evidence.sweep, *evidence.final)
    yield from (cell for report in reports for cell in report.measured if cell.candidate == chosen)


def _rows(evidence: Evidence, work: Workspace) -> Counter[tuple[str, str]]:
    """Return how many rows of one label each the chosen model was asked, by dataset and split."""
    load, evaluations = tables_in(work), evidence.recipe.evaluations
    rows: Counter[tuple[str, str]] = Counter()
    for cell in _cells(evidence):
        if isinstance(load(cell), LabelOutcomes):
            rows[evaluations[cell.evaluation].dataset, cell.split] = cell.rows
    return rows


def suspects_line(evidence: Evidence, work: Workspace) -> str | None:
    """Return what a run's end says of suspects; None where there are none, or more than one row in twenty.

    So many say more of the model than of the labels; the page has them.
    """
    found, rows = found_suspects(evidence, work) or [], _rows(evidence, work).total()
    return f"{counted(len(found), 'row')} of {rows:,} may have a wrong label" if 0 < len(found) <= rows / 20 else None


def suspects_section(evidence: Evidence, work: Workspace) -> Section | None:
    """Return how many labels may be wrong, and the ids of the likeliest; None where rows have not one label each."""
    if (found := found_suspects(evidence, work)) is None:
        return None
    rows = _rows(evidence, work)
    by_place = Counter((one.dataset, one.split) for one in found)
    places = [
        Row([Cell(dataset), *texts(split, count, by_place[dataset, split], f"{by_place[dataset, split] / count:.1%}")])
        for (dataset, split), count in rows.items()
    ]
    lead = (
        f"{counted(len(found), 'row')} of {rows.total():,} may have a wrong label: the chosen model did not "
        "train on them, and is as sure of another label as of that one where it is given. A model that is often wrong "
        f"suspects right labels, too: look before you change any. All ids are in {FILE}, beside this page."
    )
    tables = [Table(["dataset", "split", "rows", "suspected", "share"], places, "", frozenset({2, 3, 4}))]
    if found:
        tables.append(_listed(found))
    return Section("suspects", "Labels that may be wrong", lead, tables=tables)


def _listed(found: list[Suspect]) -> Table:
    rows = [
        Row(
            [
                *texts(rank, one.dataset, one.split),
                Cell(one.row_id, code=True),
                *texts(one.given, one.likelier, f"{one.p_given:.3f}", f"{one.p_likelier:.3f}"),
            ]
        )
        for rank, one in enumerate(found[:LISTED], 1)
    ]
    left = f", the first {LISTED} of {len(found):,}" if len(found) > LISTED else ""
    columns = ["", "dataset", "split", "row", "label", "likelier", "p(label)", "p(likelier)"]
    return Table(columns, rows, f"Rows by how sure the model is{left}", frozenset({0, 6, 7}))
