"""The matrix of phases and what each had learnt, from numbers made up by hand."""

from __future__ import annotations

import pytest

from ftlib.evaluation.measured import Estimate, EvalReport, Measured
from ftlib.recipe.recipe import Recipe
from ftlib.report.phases import learnt_in, phases_section

ACCURACY = {
    ("base", "news"): 0.3, ("base", "films"): 0.4, ("base", "tweets"): 0.2,
    ("first", "news"): 0.9, ("first", "films"): 0.5, ("first", "tweets"): 0.3,
    ("second", "news"): 0.7, ("second", "films"): 0.8, ("second", "tweets"): 0.4,
    ("third", "news"): 0.6, ("third", "films"): 0.75, ("third", "tweets"): 0.9,
}  # fmt: skip


def recipe(*phases: str, metric: str = "accuracy") -> Recipe:
    source = {"kind": "files", "path": "rows.jsonl"}
    names = ("news", "films", "tweets")
    return Recipe.model_validate(
        {
            "name": "r",
            "model": {"path": "m"},
            "datasets": {
                name: {"source": source, "format": {"kind": "labeled_text", "text": "text", "label": "label"}}
                for name in names
            },
            "phases": [
                {"name": name, "dataset": data, "objective": {"kind": "classification"}, "tuning": {"kind": "full"}}
                for name, data in zip(("first", "second", "third"), phases, strict=False)
            ],
            "evaluations": {name: {"dataset": name, "metrics": [{"kind": metric}]} for name in reversed(names)},
            "select": {"by": f"tweets/{metric}"},
            "publish": {"name": "r"},
        }
    )


def measured(metric: str = "accuracy") -> list[EvalReport]:
    cells = [
        Measured(
            candidate=model,
            evaluation=evaluation,
            rows=100,
            metrics={metric: Estimate(value=value, low=value - 0.05, high=value + 0.05)},
            alpha=None,
            split="test",
            outcomes="",
            weights="",
        )
        for (model, evaluation), value in ACCURACY.items()
    ]
    return [EvalReport(measured=tuple(cells))]


def test_rows_are_phases_columns_what_they_learnt_and_backward_transfer_is_lopez_paz_and_ranzatos() -> None:
    of = recipe("news", "films", "tweets")
    assert learnt_in(of) == {"news": "first", "films": "second", "tweets": "third"}
    section = phases_section(of, measured(), "third", [])
    assert section is not None
    (table,) = section.tables
    assert [row.cells[0].text for row in table.rows] == ["base", "after first", "after second", "after third"]
    assert table.columns[1:] == ["news accuracy", "films accuracy", "tweets accuracy"]
    assert [[float(cell.text) for cell in row.cells[1:]] for row in table.rows[1:]] == [
        [0.9, 0.5, 0.3],
        [0.7, 0.8, 0.4],
        [0.6, 0.75, 0.9],
    ]
    assert table.rows[-1].mark == "chosen"
    assert f"is \u2212{((0.9 - 0.6) + (0.8 - 0.75)) / 2:.3f} accuracy" in section.lead  # 1/(T-1) of R_Ti - R_ii
    assert "A fall is forgetting" in section.lead


def test_a_rise_of_what_should_be_low_is_forgetting() -> None:
    section = phases_section(recipe("news", "films", "tweets", metric="log_loss"), measured("log_loss"), "third", [])
    assert section is not None
    assert "A rise is forgetting" in section.lead


@pytest.mark.parametrize("phases", [("news",), ("news", "news")])
def test_where_no_other_rows_follow_there_is_nothing_to_tell(phases: tuple[str, ...]) -> None:
    assert phases_section(recipe(*phases, *[]), measured(), "first", []) is None
