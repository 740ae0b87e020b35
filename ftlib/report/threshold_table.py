"""List the scores that other thresholds than 0.5 would have given, for rows of several labels."""

from __future__ import annotations

from collections.abc import Mapping

from ftlib.evaluation.results import number
from ftlib.kinds.outcomes import MultiLabelOutcomes
from ftlib.kinds.outcomes.multi_labels import THRESHOLD
from ftlib.report.content import Row, Table, texts


def threshold_table(
    validation: Mapping[str, MultiLabelOutcomes], test: Mapping[str, MultiLabelOutcomes]
) -> Table | None:
    """Return each evaluation's best threshold on the validation rows, and what it makes of both splits.

    None where no validation row has a label. The model goes on with `THRESHOLD`; this is what there is to gain.
    """
    rows = [
        Row(
            texts(
                name,
                number(threshold),
                *(number(micro_f1(table, at)) for table in (seen, test[name]) for at in (threshold, THRESHOLD)),
            )
        )
        for name, seen in validation.items()
        if name in test and (threshold := best_threshold(seen)) is not None
    ]
    if not rows:
        return None
    columns = [f"{split}, with {which}" for split in ("validation", "test") for which in ("it", f"{THRESHOLD:g}")]
    caption = "micro F1 by threshold: the best on the validation rows, one for all labels; answers go by "
    return Table(
        ["evaluation", "threshold", *columns], rows, f"{caption}{THRESHOLD:g}", frozenset(range(1, 2 + len(columns)))
    )


def best_threshold(table: MultiLabelOutcomes) -> float | None:
    """Return the probability from which on a yes gives the best micro F1; None where no row has a label."""
    import numpy as np

    order = np.argsort(-table.probabilities.ravel(), kind="stable")
    probabilities, gold = table.probabilities.ravel()[order], table.gold.ravel()[order]
    if not gold.any():
        return None
    scores = 2 * gold.cumsum() / (gold.sum() + np.arange(1, len(gold) + 1))
    scores[:-1][probabilities[1:] == probabilities[:-1]] = -1.0  # equal probabilities are said together
    return float(probabilities[scores.argmax()])


def micro_f1(table: MultiLabelOutcomes, threshold: float) -> float:
    """Return micro F1 if every label is said that is at least this probable; nan where no row has a label."""
    predicted = table.probabilities >= threshold
    if not table.gold.any():
        return float("nan")
    return float(2 * (table.gold & predicted).sum() / (table.gold.sum() + predicted.sum()))
