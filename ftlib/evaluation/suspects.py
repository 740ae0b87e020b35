"""Labels that may be wrong, found in what a model says of rows that it did not train on: confident learning."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from ftlib.config import Config, Split
from ftlib.kinds.outcomes import LabelOutcomes, Outcomes

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float, Int

COLUMNS = ("rank", "dataset", "split", "row_id", "given", "likelier", "p_given", "p_likelier")
"""Of the list as a file; `model` stands before them where several models were asked."""


class Suspect(Config):
    """A row whose label may be wrong. It says no text: the dataset's rows have it, under the id."""

    dataset: str
    split: Split
    row_id: str
    given: str
    """The label that the row has."""
    likelier: str
    """The one that the model is sure of."""
    p_given: float
    """What the model gives the row's own label."""
    p_likelier: float


def suspected(table: LabelOutcomes) -> tuple[Int[np.ndarray, " some"], Int[np.ndarray, " some"]]:
    """Return which rows' labels may be wrong, likeliest first, and which label is likelier for each.

    Confident learning (Northcutt et al. 2021, arXiv 1911.00068, section 3.1): a label's threshold is the mean of what
    the model gives it in the rows that have it. A row counts for the most probable of the labels that reach theirs;
    where that is another label than its own, and the model's answer too, it is suspected. They are ordered by
    p(own) - p(likelier), least first; of equals, as the rows are. A label that no row has is never likelier.
    """
    import numpy as np

    p: Float[np.ndarray, "rows labels"] = table.probabilities.astype(np.float64)
    rows = np.arange(len(table))
    counts = np.bincount(table.gold, minlength=len(table.labels))
    own = p[rows, table.gold]
    sums = np.bincount(table.gold, weights=own, minlength=len(table.labels))
    thresholds = np.where(counts > 0, sums / counts.clip(min=1), np.inf)
    confident = np.where(p >= thresholds, p, -1.0)
    likelier = confident.argmax(axis=1)
    found = (confident[rows, likelier] >= 0.0) & (likelier != table.gold) & (table.predicted != table.gold)
    order = np.argsort((own - p[rows, likelier])[found], kind="stable")
    which = np.flatnonzero(found)[order]
    return which, likelier[which]


def suspects(dataset: str, split: Split, table: Outcomes) -> list[Suspect]:
    """Return what is suspected in a table; nothing of rows that have not one label each."""
    if not isinstance(table, LabelOutcomes) or not len(table):
        return []
    which, likelier = suspected(table)
    return [
        Suspect(
            dataset=dataset,
            split=split,
            row_id=table.row_ids[row],
            given=table.labels[int(table.gold[row])],
            likelier=table.labels[other],
            p_given=round(float(table.probabilities[row, table.gold[row]]), 4),
            p_likelier=round(float(table.probabilities[row, other]), 4),
        )
        for row, other in zip(which.tolist(), likelier.tolist(), strict=True)
    ]


def ranked(found: Iterable[Suspect]) -> list[Suspect]:
    """Return suspects of several tables in one order, each row once: as the table says that is surest of it."""
    ordered = sorted(found, key=lambda one: (one.p_given - one.p_likelier, one.dataset, one.row_id))
    first = {(one.dataset, one.row_id): one for one in reversed(ordered)}
    return sorted(first.values(), key=lambda one: (one.p_given - one.p_likelier, one.dataset, one.row_id))


def as_csv(found: Mapping[str, Iterable[Suspect]]) -> bytes:
    """Return the lists of several models, or of one, as a CSV in UTF-8."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("model", *COLUMNS))
    for model, listed in found.items():
        for rank, one in enumerate(listed, 1):
            values = one.model_dump()
            writer.writerow([model, rank, *(values[column] for column in COLUMNS[1:])])
    return text.getvalue().encode()
