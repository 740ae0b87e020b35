"""The table that a night leaves, and that a step which did not happen is no row of it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from benchmarks import night as module
from benchmarks.night import BASELINE, STEPS, page, play
from benchmarks.night_stage import RECIPE, Night
from benchmarks.reliability_page import PAGE
from ftlib.recipe.recipe import Recipe


def test_the_page_holds_the_table_of_the_night_that_is_recorded() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert page(text, json.loads(BASELINE.read_text(encoding="utf-8"))) == text


def test_the_record_is_of_every_step_and_ends_with_nothing_left() -> None:
    *steps, last = json.loads(BASELINE.read_text(encoding="utf-8"))["steps"]
    assert [what for what, _, _ in steps] == [str(step.__doc__).rstrip(".") for step in STEPS]
    assert last[1] == "no process is left"


def test_a_step_that_does_not_hold_ends_the_night(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def holds(night: Night) -> str:
        """It holds."""
        return "seen"

    def breaks(night: Night) -> str:
        """It breaks."""
        raise AssertionError("the alias moved twice")

    monkeypatch.setattr(module, "STEPS", (holds, breaks, holds))
    told: list[list[str]] = []
    night = cast("Any", SimpleNamespace(rows=[], remember=told.append, go_on=lambda: None))
    with pytest.raises(AssertionError, match="twice"):
        play(night)
    assert told == [["It holds", "seen", "0"]]
    assert capsys.readouterr().out.split() == ["0", "s", "It", "holds:", "seen"]


def test_a_night_that_was_broken_off_does_nothing_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [{"id": state.lower(), "state_type": state} for state in ("COMPLETED", "PENDING", "RUNNING", "PAUSED")]
    monkeypatch.setattr(Night, "runs", lambda self, flow: runs)
    night, arrived = Night(tmp_path), list[int]()
    night.remember(["It comes up", "seen", "3"])
    night.does(lambda: arrived.append(1))
    again = Night(tmp_path)
    again.does(lambda: arrived.append(2))
    assert (arrived, again.rows, again.times) == ([1], [["It comes up", "seen", "3"]], 2)
    assert [run["id"] for run in again.new_runs("monitor")] == ["pending", "running"]
    again.remember(["Files arrive", "seen", "4"])
    again.does(lambda: arrived.append(3))
    assert arrived == [1, 3]


def test_its_recipe_fits_together() -> None:
    import yaml

    recipe = Recipe.model_validate(yaml.safe_load(RECIPE))
    assert (recipe.retrain.approval, recipe.monitor.rollback) == ("by_hand", "on_quality")
