"""A recipe that chooses by what answers are worth, and by judges, and asks for all in its gates."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.finetune import finetune
from flows.run.record import RunRecord
from ftlib.recipe.file import load_recipe
from ftlib.registry.outcome import ModelVersion, Refusal
from ftlib.testing import LABELS
from tests.ftlib.evaluation.judges.endpoint_stub import Stub, answers, serving
from tests.recipes.test_recipes import FOLDER, PlainRunner, tiny_overrides

NAME = "answers"
PANEL = "win_rate:panel"
METRICS = [
    {"kind": "reward", "reward": {"kind": "length", "least": 1, "most": 40}},
    {"kind": "win_rate", "judge": {"kind": "reward", "reward": {"kind": "length", "most": 40}}},
]
OWN = {f"please ask the {label} team" for label in LABELS}
"""The rows' own answers."""


def prefers_own(question: str) -> str:
    """Prefer what a row has of its own: who is compared with it wins never, and has half a win as its equal."""
    first, second = (answer.strip() in OWN for answer in answers(question))
    return "C" if first == second else "A" if first else "B"


@pytest.fixture
def panel() -> Iterator[Stub]:
    with serving(prefers_own) as stub:
        yield stub


@pytest.mark.slow
def test_a_recipe_selects_and_gates_by_rewards_and_judges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, panel: Stub
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr("flows.run.tracked.Runner", PlainRunner)
    recipe = load_recipe(FOLDER / "completions.yaml")
    judge = {"kind": "endpoint", "url": panel.url, "model": "m", "attempts": 1}
    metrics = [*METRICS, {"kind": "win_rate", "judge": judge, "called": "panel"}]
    tiny = [
        *tiny_overrides(recipe, tmp_path, ""),
        f"evaluations.{NAME}.metrics={json.dumps(metrics)}",
        f"evaluations.{NAME}.max_new_tokens=8",
    ]

    def run(**least: float) -> RunRecord:
        gates = [{"metric": f"{NAME}/{metric}", "at_least": bound} for metric, bound in least.items()]
        select = f"select={json.dumps({'by': f'{NAME}/reward', 'gates': gates})}"
        path = str(FOLDER / "completions.yaml")
        return finetune.fn(path, overrides=[*tiny, select], work=str(tmp_path / "work")).data

    refused = run(**{PANEL: 0.51})
    assert isinstance(refused.result, Refusal)
    numbers = reported(refused, PANEL)
    assert 0 <= numbers[0] <= numbers[1] <= numbers[2] <= 0.5
    asked = [body["messages"][0]["content"] for body in panel.asked]
    assert len({*asked}) == len(asked) > 0
    assert all({*answers(question)} & OWN for question in asked)
    said = f"{NAME}/{PANEL} is {numbers[1]:.4f} on the test split, at least 0.51 is required"
    assert refused.result.reasons == (said,)

    passed = run(reward=0.01, win_rate=0.01, **{PANEL: 0.0})
    assert isinstance(passed.result, ModelVersion)
    assert passed.evidence.checkpoints == refused.evidence.checkpoints
    assert len(panel.asked) == len(asked)  # a gate is read of what was measured, and asks no judge again
    for metric in ("reward", "win_rate"):
        low, value, high = reported(passed, metric)
        assert 0 < low <= value <= high <= 1


def reported(record: RunRecord, metric: str) -> tuple[float, float, float]:
    """Return a metric with its interval as it was measured of the version on the test split."""
    (cells,) = [cell for cell in record.evidence.final if cell.measured[0].evaluation == NAME]
    numbers = cells.measured[-1].metrics[metric].numbers()
    assert numbers is not None
    return numbers
