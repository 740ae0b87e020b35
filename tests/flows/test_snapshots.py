"""A run from a snapshot of its last phase to that phase's end, chosen by pass@k."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.run.steps import inputs, steps
from ftlib.errors import RecipeError
from ftlib.recipe.file import load_recipe
from ftlib.registry.outcome import ModelVersion
from ftlib.stages.step import walk
from ftlib.testing import tiny_causal_lm, tiny_prompts, write_jsonl
from ftlib.workspace import Workspace


def written(folder: Path, phase: dict[str, Any] | None = None, **changes: Any) -> Path:
    base = tiny_causal_lm(folder / "base")
    write_jsonl(folder / "rows.jsonl", tiny_prompts(80))
    tune = {
        "name": "tune",
        "dataset": "rows",
        "objective": {"kind": "completion"},
        "tuning": {"kind": "lora", "rank": 2},
        "optimizer": {"epochs": 2, "learning_rate": 1e-2},
        "snapshots": {"epochs": [1]},
    }
    measured = {
        "dataset": "rows",
        "max_new_tokens": 3,
        "samples": {"count": 4},
        "metrics": [
            {"kind": "pass_at_k", "k": 2, "checker": {"kind": "regex", "pattern": "e"}},
            {"kind": "perplexity"},
        ],
        "resamples": 100,
    }
    recipe = {
        "name": "snapshots",
        "model": {"path": str(base)},
        "datasets": {
            "rows": {
                "source": {"kind": "files", "path": str(folder / "rows.jsonl")},
                "format": {
                    "kind": "prompt_completion",
                    "prompt": "prompt",
                    "completion": "completion",
                    "max_tokens": 64,
                },
            }
        },
        "phases": [{**tune, **(phase or {})}],
        "evaluations": {"rows": measured},
        "interpolation": {"kind": "wise_ft", "alphas": [0.5], "start": "epoch-1"},
        "select": {"by": "rows/pass_at_2"},
        "publish": {"name": "early", "to": {"kind": "folder", "path": str(folder / "registry")}},
        "compute": {"workers": 0, "threads": 1},
        **changes,
    }
    path = folder / "snapshots.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


@pytest.mark.slow
def test_a_run_goes_from_a_snapshot_to_the_end(tmp_path: Path) -> None:
    recipe, work = load_recipe(written(tmp_path)), Workspace(tmp_path / "work")
    outcome = walk(steps(recipe, work, inputs(recipe, work)), lambda step: step.stage(step.job, work))
    assert outcome is not None
    members, end = outcome.evidence.candidates.members, outcome.evidence.checkpoints[-1]
    assert [member.start.phase for member in members] == ["tune@epoch-1"] * 3
    assert [member.weights for member in (members[0], members[-1])] == [end.at("epoch-1").weights, end.weights]
    assert members[0].weights != outcome.evidence.checkpoints[0].weights
    assert isinstance(outcome.result, ModelVersion)
    shown = {name for cell in outcome.evidence.sweep[0].measured for name in cell.metrics}
    assert shown == {"pass_at_2", "perplexity"}


@pytest.mark.parametrize(
    ("phase", "changes", "message"),
    [
        ({"snapshots": {"steps": [3]}}, {}, "'epoch-1' is no snapshot of phase 'tune', which keeps step-3"),
        ({"snapshots": None}, {}, r"which keeps none: give it snapshots: \{steps: \[...\]\}"),
        ({}, {"interpolation": {"kind": "off", "start": "epoch-1"}}, "'off' does not start from a snapshot"),
        (
            {},
            {"select": {"rule": "within", "by": "rows/perplexity", "divergence": "rows/kl_to_start", "at_most": 0.1}},
            "'within' budgets the whole way from where the phase started, and interpolation.start is snapshot 'epoch",
        ),
        ({}, {"publish": {"name": "early", "adapter": True}}, "stands on where its phase started"),
    ],
)
def test_what_no_line_starts_from(tmp_path: Path, phase: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe(written(tmp_path, phase, **changes))


@pytest.mark.parametrize(
    ("evaluation", "message"),
    [
        ({"samples": None}, "'pass_at_2' reads at least 2 drawn answers to each prompt, got none; give samples"),
        ({"samples": {"count": 1}}, "got 1; give samples: {count: 10}"),
        ({"max_new_tokens": 0}, "samples: none are drawn without max_new_tokens"),
    ],
)
def test_what_is_not_drawn(tmp_path: Path, evaluation: dict[str, Any], message: str) -> None:
    path = written(tmp_path)
    recipe = yaml.safe_load(path.read_text())
    recipe["evaluations"]["rows"] |= evaluation
    path.write_text(yaml.safe_dump(recipe))
    with pytest.raises(RecipeError) as error:
        load_recipe(path)
    assert message in str(error.value)
