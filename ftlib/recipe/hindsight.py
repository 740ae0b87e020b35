"""What a user should know of what was measured, though nothing fails by it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ftlib.config import REPORT
from ftlib.data.datasets import PreparedDataset
from ftlib.evaluation.measured import Measured
from ftlib.recipe.recipe import Recipe

_ACCURACY = "accuracy"


def one_answer_notes(
    recipe: Recipe, measured: Mapping[str, Measured], prepared: Mapping[str, PreparedDataset]
) -> Iterator[str]:
    """Say of which evaluations the chosen model's accuracy cannot be told from that of one answer for all rows.

    `measured` is the chosen model on the report splits, by evaluation. Such a model may be published all the same: a
    run of few rows measures little, and only gates refuse.
    """
    for name, evaluation in recipe.evaluations.items():
        labels = prepared[evaluation.dataset].splits[REPORT].labels
        cell = measured.get(name)
        estimate = cell.metrics.get(_ACCURACY) if cell else None
        numbers = estimate.numbers() if estimate else None
        if numbers is None or not labels:
            continue
        (low, value, high), rows = numbers, sum(labels.values())
        label, most = max(labels.items(), key=lambda counted: (counted[1], counted[0]))
        if low <= (share := most / rows):
            yield (
                f"{name}/{_ACCURACY} of the chosen model, {value:.3f} [{low:.3f}, {high:.3f}], cannot be told from one "
                f"answer for all rows: {label!r} is right on {share:.3f} of these {rows}; add rows or train longer, or "
                f"let select.gates refuse such a version: {{metric: {name}/{_ACCURACY}, at_least: {share:.2f}}}"
            )
