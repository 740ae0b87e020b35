"""The table that a night leaves, and that a step which did not happen is no row of it."""

from __future__ import annotations

import json
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


def test_its_recipe_fits_together() -> None:
    import yaml

    recipe = Recipe.model_validate(yaml.safe_load(RECIPE))
    assert (recipe.retrain.approval, recipe.monitor.rollback) == ("by_hand", "on_quality")
