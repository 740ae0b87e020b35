"""Tables of differences: which bars may be compared; of trainings: how facts are written."""

from __future__ import annotations

import pytest

from ftlib.evaluation.measured import Estimate
from ftlib.evaluation.results import Difference
from ftlib.models.checkpoint import Checkpoint
from ftlib.report.content import Bar
from ftlib.report.sections import differences_section, training_section


def difference(evaluation: str, metric: str, value: float) -> Difference:
    return Difference(
        ours="alpha=0.5",
        theirs="tune",
        evaluation=evaluation,
        metric=metric,
        estimate=Estimate(value=value, low=value - 0.01, high=value + 0.01),
        confidence=0.95,
        higher_is_better=True,
        p=0.2,
    )


def test_bars_of_one_metric_share_a_scale_unless_it_is_wide() -> None:
    found = [
        difference(*facts)
        for facts in (
            ("home", "accuracy", 0.2),
            ("away", "accuracy", -0.3),
            ("home", "perplexity", -25.7),
            ("away", "perplexity", 2462.0),
        )
    ]
    (table,) = differences_section(found, "alpha=0.5", []).tables
    bars = [row.cells[2].bar for row in table.rows]
    lengths = [abs(bar.value - bar.zero) for bar in bars if bar and bar.zero is not None]
    assert lengths[0] / lengths[1] == pytest.approx(2 / 3)  # they can be compared
    assert lengths[2:] == pytest.approx([1.0, 1.0], abs=0.01)  # neither is a dot on zero


def test_bars_of_nothing_but_zeros_lie_in_the_middle() -> None:
    none = difference("home", "accuracy", 0.0).model_copy(update={"estimate": Estimate(value=0.0, low=0.0, high=0.0)})
    (table,) = differences_section([none], "alpha=0.5", []).tables
    assert table.rows[0].cells[2].bar == Bar(0.5, 0.5, 0.5, 0.5)


def test_where_nothing_is_to_be_compared_there_is_no_table() -> None:
    section = differences_section([], "alpha=1", ["tune", "base"])
    assert section.lead == "alpha=1 has the very weights of tune and base: there is nothing to compare."
    assert not section.tables


def checkpoint(phase: str, **facts: int | float | str) -> Checkpoint:
    return Checkpoint(
        uri="file:///checkpoint",
        weights="weights",
        parent=None,
        tokenizer="tokenizer",
        config="config",
        phase=phase,
        fresh_head=False,
        labels=(),
        parameters=2_441_728,
        trained_parameters=2_441_728,
        facts=facts,
    )


@pytest.mark.parametrize(("size", "written"), [(21_504, "21.5 kB"), (283_000_000, "283 MB")])
def test_bytes_of_a_training_keep_digits_however_few_they_are(size: int, written: str) -> None:
    section = training_section([checkpoint("base"), checkpoint("tune", optimizer_bytes=size)], [])
    (row,) = (row for row in section.tables[0].rows if row.cells[0].text == "optimizer bytes")
    assert row.cells[1].text == written
