"""What lies behind the numbers of a table of outcomes: for each kind of answer, what there is to draw and to list."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ftlib.evaluation.bootstrap import Resampling
from ftlib.evaluation.evaluation import Evaluation
from ftlib.kinds.outcomes import Outcomes
from ftlib.kinds.outcomes.base import Shown
from ftlib.report.calibration import calibration
from ftlib.report.confusion import confusion
from ftlib.report.content import Figure, Table
from ftlib.report.label_tables import label_table
from ftlib.report.question_tables import question_table
from ftlib.report.regression import predictions
from ftlib.report.threshold_table import threshold_table


def answer_figures(folder: Path, tables: Mapping[str, Outcomes]) -> list[Figure]:
    """Draw every evaluation's calibration or scores, and the first one's confusions."""
    figures: list[Figure | None] = []
    if sure := shown(tables, "calibration"):
        figures.append(calibration(folder, sure))
    if scored := shown(tables, "regression"):
        figures.append(predictions(folder, scored))
    if mixed_up := shown(tables, "confusion"):
        figures.append(confusion(folder, *next(iter(mixed_up.items()))))
    return [figure for figure in figures if figure is not None]


def answer_tables(
    tables: Mapping[str, Outcomes],
    validation: Mapping[str, Outcomes],
    evaluations: Mapping[str, Evaluation],
    seed: int,
) -> list[Table]:
    """List every evaluation's labels, types of entity or kinds of question, with their scores on the test rows.

    `validation` are the same model's tables on the validation rows, as far as there are any.
    """
    listed: list[Table | None] = [threshold_table(shown(validation, "thresholds"), shown(tables, "thresholds"))]
    labels, questions = shown(tables, "labels"), shown(tables, "questions")
    for name in tables:
        evaluation = evaluations[name]
        resampling = Resampling(evaluation.resamples, evaluation.confidence, seed)
        if name in labels:
            listed.append(label_table(name, labels[name], resampling))
        if name in questions:
            listed.append(question_table(name, questions[name], evaluation.metrics, resampling))
    return [table for table in listed if table is not None]


def shown(tables: Mapping[str, Outcomes], how: Shown) -> dict[str, Any]:
    """Return the tables that say of themselves that they are shown so; they have what that reads."""
    return {name: table for name, table in tables.items() if how in table.shown_as}
