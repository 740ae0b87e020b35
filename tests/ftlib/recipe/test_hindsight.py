"""What is said of a model that measured no better than one answer for all rows."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ftlib.evaluation.measured import Estimate
from ftlib.recipe.file import load_recipe
from ftlib.recipe.hindsight import one_answer_notes
from ftlib.testing import tiny_recipe


@pytest.mark.parametrize(
    ("low", "labels", "said"),
    [
        (0.41, {"bug": 4, "billing": 6}, True),
        (0.60, {"bug": 4, "billing": 6}, True),
        (0.61, {"bug": 4, "billing": 6}, False),
        (0.41, {}, False),
    ],
)
def test_it_is_said_where_the_interval_holds_one_answer_s_accuracy(
    tmp_path: Path, low: float, labels: dict[str, int], said: bool
) -> None:
    recipe = load_recipe(tiny_recipe(tmp_path))
    name, evaluation = next(iter(recipe.evaluations.items()))
    estimates = {"accuracy": Estimate(value=0.7, low=low, high=0.8), "log_loss": Estimate(value=1.0, low=0.9, high=1.1)}
    measured: Any = {one: SimpleNamespace(metrics=estimates if one == name else {}) for one in recipe.evaluations}
    facts: Any = SimpleNamespace(splits={"test": SimpleNamespace(labels=labels)})
    prepared = {one.dataset: facts for one in recipe.evaluations.values()}
    notes = [note for note in one_answer_notes(recipe, measured, prepared) if note.startswith(f"{name}/")]
    assert evaluation.dataset in prepared
    assert len(notes) == said
    if said:
        assert "'billing' is right on 0.600 of these 10" in notes[0]
        assert f"{{metric: {name}/accuracy, at_least: 0.60}}" in notes[0]
