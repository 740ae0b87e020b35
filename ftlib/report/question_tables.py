"""How a model does on questions that have an answer, and on those that have none."""

from __future__ import annotations

from collections.abc import Sequence

from ftlib.evaluation.bootstrap import Resampling, estimates
from ftlib.evaluation.metrics import Metric
from ftlib.kinds.outcomes import SpanOutcomes
from ftlib.report.content import Cell, Row, Table, estimates_on_one_scale, texts


def question_table(name: str, table: SpanOutcomes, metrics: Sequence[Metric], resampling: Resampling) -> Table | None:
    """Return both kinds of question with every metric; None where every question has an answer.

    `no answer` counts what the model says nothing about, by the first metric's threshold.
    """
    import numpy as np

    threshold = next((m.answer_threshold for m in metrics if m.answer_threshold is not None), None)
    if table.null_scores is None or threshold is None:
        return None
    kinds = {"with an answer": ~table.unanswerable, "without": table.unanswerable}
    parts = {kind: table.take(np.nonzero(rows)[0]) for kind, rows in kinds.items() if rows.any()}
    by_part = [estimates(part, metrics, resampling) for part in parts.values()]
    columns = [estimates_on_one_scale([of_part[metric.name] for of_part in by_part]) for metric in metrics]
    silent = table.silent(threshold)
    return Table(
        ["questions", "rows", "no answer", *(metric.name.replace("_", " ") for metric in metrics)],
        [
            Row([Cell(kind), *texts(len(part), int(silent[kinds[kind]].sum())), *(column[i] for column in columns)])
            for i, (kind, part) in enumerate(parts.items())
        ],
        f"{name} · by whether there is an answer",
        frozenset({1, 2}),
    )
