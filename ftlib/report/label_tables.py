"""How well each label is found: the table beside a confusion matrix, and in its place where there can be none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ftlib.evaluation.bootstrap import Resampling
from ftlib.evaluation.measured import Estimate
from ftlib.evaluation.metrics.entity_scores import entity_counts
from ftlib.evaluation.metrics.label_counts import LabelCounts, Score
from ftlib.kinds.outcomes import LabelOutcomes, MultiLabelOutcomes, TaggedOutcomes
from ftlib.report.content import Cell, Row, Table, estimates_on_one_scale, texts

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Int

LONGEST = 50
"""Labels that are listed."""
SCORES: tuple[Score, ...] = ("precision", "recall", "f1")

Labelled = LabelOutcomes | MultiLabelOutcomes | TaggedOutcomes


def label_table(name: str, table: Labelled, resampling: Resampling) -> Table | None:
    """Return every label, or type of entity, with its counts and scores, the worst F1 on top.

    A label that neither is in a row nor is said is left out: None where that is every label.
    """
    import numpy as np

    counts = _counts(table, np.arange(len(table))[None])
    golds, predictions = counts.golds[0], counts.predictions[0]
    f1 = np.nan_to_num(counts.score("f1")[0])
    occurring = sorted(np.nonzero(golds + predictions)[0].tolist(), key=lambda label: (f1[label], -golds[label], label))
    if not occurring:
        return None
    shown = occurring[:LONGEST]
    scores = label_scores(table, resampling)
    columns = [estimates_on_one_scale([scores[score][label] for label in shown]) for score in SCORES]
    tagged = isinstance(table, TaggedOutcomes)
    names = table.entities.types if tagged else table.labels
    left = f", the {len(shown)} worst of {len(occurring)} by F1" if len(occurring) > len(shown) else ""
    return Table(
        ["type" if tagged else "label", "entities" if tagged else "rows", "answers", "precision", "recall", "F1"],
        [
            Row([Cell(names[label]), *texts(int(golds[label]), int(predictions[label])), *(c[i] for c in columns)])
            for i, label in enumerate(shown)
        ],
        f"{name} · by {'type of entity' if tagged else 'label'}{left}",
        frozenset({1, 2}),
    )


def label_scores(table: Labelled, resampling: Resampling) -> dict[Score, list[Estimate]]:
    """Return every label's precision, recall and F1 with their intervals, in the labels' order."""
    import numpy as np

    whole = _counts(table, np.arange(len(table))[None])
    drawn = [_counts(table, rows) for rows in resampling.draws(len(table))]
    return {
        score: [
            resampling.interval(float(value), column)
            for value, column in zip(
                whole.score(score)[0], np.concatenate([part.score(score) for part in drawn]).T, strict=True
            )
        ]
        for score in SCORES
    }


def _counts(table: Labelled, rows: Int[np.ndarray, "resamples rows"]) -> LabelCounts:
    return entity_counts(table, rows) if isinstance(table, TaggedOutcomes) else LabelCounts.of(table, rows)
