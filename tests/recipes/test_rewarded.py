"""A recipe that chooses by what answers are worth, and by a judge, and asks for both in its gates."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flows.finetune import finetune
from ftlib.recipe.file import load_recipe
from ftlib.registry.outcome import ModelVersion
from tests.recipes.test_recipes import FOLDER, PlainRunner, tiny_overrides

METRICS = [
    {"kind": "reward", "reward": {"kind": "length", "least": 1, "most": 40}},
    {"kind": "win_rate", "judge": {"kind": "reward", "reward": {"kind": "length", "most": 40}}},
]


@pytest.mark.slow
def test_a_recipe_selects_and_gates_by_rewards_and_judges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("flows.run.tracked.Runner", PlainRunner)
    recipe = load_recipe(FOLDER / "completions.yaml")
    name = "answers"
    gates = [{"metric": f"{name}/{metric}", "at_least": 0.0} for metric in ("reward", "win_rate")]
    overrides = [
        *tiny_overrides(recipe, tmp_path, ""),
        f"evaluations.{name}.metrics={json.dumps(METRICS)}",
        f"evaluations.{name}.max_new_tokens=8",
        f"select={json.dumps({'by': f'{name}/reward', 'gates': gates})}",
    ]
    record = finetune.fn(str(FOLDER / "completions.yaml"), overrides=overrides, work=str(tmp_path / "work")).data
    assert isinstance(record.result, ModelVersion)
    (measured,) = [cell for cell in record.evidence.final if cell.measured[0].evaluation == name]
    for cell in measured.measured:
        for metric in ("reward", "win_rate"):
            low, value, high = cell.metrics[metric].numbers() or (-1, -1, -1)
            assert 0 <= low <= value <= high <= 1
