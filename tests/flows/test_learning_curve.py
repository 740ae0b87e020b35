"""A run with a learning curve: what is trained again, on which rows, and where its numbers are said."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from flows.command_line.main import main
from flows.planning.plan import make_plan
from flows.run.steps import inputs, steps
from flows.run.values import Outcome
from ftlib.data.prepared import split_file
from ftlib.evaluation.measured import tables_in
from ftlib.kinds.open_split import open_split
from ftlib.recipe.file import load_recipe
from ftlib.recipe.recipe import Recipe
from ftlib.report.learning_curve import learning
from ftlib.stages.step import Step, walk
from ftlib.stages.train import TrainJob
from ftlib.testing import tiny_recipe
from ftlib.workspace import Workspace

ASKED = ("learning_curve={shares: [0.5, 0.25], seeds: [1]}", "interpolation={kind: off}")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, Workspace, Outcome, list[Step]]:
    folder = tmp_path_factory.mktemp("curve")
    recipe, work = load_recipe(tiny_recipe(folder), ASKED), Workspace(folder / "work")
    called: list[Step] = []

    def call(step: Step) -> object:
        called.append(step)
        return step.stage(step.job, work)

    outcome = walk(steps(recipe, work, inputs(recipe, work)), call)
    assert outcome is not None
    return recipe, work, outcome, called


@pytest.mark.slow
def test_every_phase_of_the_rows_is_trained_again_on_nested_shares(
    run: tuple[Recipe, Workspace, Outcome, list[Step]],
) -> None:
    _, _, outcome, called = run
    labels = [step.label for step in called]
    assert len({*labels}) == len(labels)
    trained = {step.label: step.job for step in called if isinstance(step.job, TrainJob)}
    assert [*trained] == [
        *("train probe", "train tune", "train probe-25-percent", "train tune-25-percent"),
        *("train probe-50-percent", "train tune-50-percent", "train probe-25-percent-seed1"),
        *("train tune-25-percent-seed1", "train probe-50-percent-seed1", "train tune-50-percent-seed1"),
        *("train probe-100-percent-seed1", "train tune-100-percent-seed1"),
    ]
    ids = {
        name: {*open_split(split_file(job.parts[0].path, "train"), job.start.labels).row_ids.to_pylist()}
        for name, job in trained.items()
    }
    assert ids["train probe-25-percent"] == ids["train tune-25-percent"] < ids["train tune-50-percent"]
    assert ids["train tune-50-percent"] < ids["train tune"] == ids["train tune-100-percent-seed1"]
    assert ids["train tune-25-percent-seed1"] != ids["train tune-25-percent"]
    starts = {name: job.start.weights for name, job in trained.items()}
    assert len({starts["train probe"], starts["train probe-25-percent"]}) == 1, "all begin at the same base"
    assert all(job.phase.optimizer.epochs == 1 for job in trained.values() if job.phase.tuning.takes_steps)
    assert outcome.evidence.curve is not None
    assert [one.rows for one in outcome.evidence.curve.ends[:2]] == [
        len(ids["train tune-25-percent"]),
        len(ids["train tune-50-percent"]),
    ]


@pytest.mark.slow
def test_the_points_are_what_numpy_counts_in_the_tables(run: tuple[Recipe, Workspace, Outcome, list[Step]]) -> None:
    _, work, outcome, _ = run
    curve = outcome.evidence.curve
    assert curve is not None
    told = {one.metric: one for one in learning(outcome.evidence, work)}
    assert [*told] == ["away/accuracy", "home/accuracy"], "the rule's own first"
    load = tables_in(work)
    reports = (*curve.reports, *outcome.evidence.final)
    cells = {(c.candidate, c.evaluation): load(c) for report in reports for c in report.measured}

    def right(*names: str) -> float:
        tables = [cells[name, "away"] for name in names]
        return float(np.mean([np.mean(table.gold == table.predicted) for table in tables]))  # type: ignore[attr-defined]

    assert [value.value for value in told["away/accuracy"].values] == pytest.approx(
        [
            right("tune-25-percent", "tune-25-percent-seed1"),
            right("tune-50-percent", "tune-50-percent-seed1"),
            right("tune", "tune-100-percent-seed1"),
        ]
    )
    page = outcome.report.local(Path(outcome.report.markdown)).read_text("utf-8")
    assert "## More rows" in page
    assert "training rows in place of" in page
    assert "learning_curve.png" in outcome.report.plots


def test_the_plan_shows_what_is_trained_again(tmp_path: Path) -> None:
    path = tiny_recipe(tmp_path)
    asked = load_recipe(path, ["learning_curve={}"])
    plan = make_plan(asked, Workspace(tmp_path / "work"), prepare=True)
    rows = {phase.name: phase.rows for phase in plan.phases}
    assert [*rows] == ["probe", "tune", *(f"{phase}-{n}-percent" for n in (25, 50) for phase in ("probe", "tune"))]
    assert rows["tune-25-percent"] == round(0.25 * rows["tune"])
    labels = [stage.stage for stage in plan.stages]
    assert "thin home to 25 %" in labels
    assert "evaluate away test of shares" in labels
    without = make_plan(load_recipe(path), Workspace(tmp_path / "work"), prepare=True)
    assert plan.seconds is not None
    assert without.seconds is not None
    assert plan.seconds > without.seconds


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("learning_curve={shares: [0.5]}", "two or more"),
        ("learning_curve={shares: [0.5, 1.5]}", "1.5"),
        ("learning_curve={seeds: [1, 1]}", "each once"),
        ("learning_curve=0.5", "learning_curve"),
    ],
)
def test_a_curve_that_cannot_be_drawn_is_refused_in_words(tmp_path: Path, given: str, words: str) -> None:
    done = CliRunner().invoke(main, ["plan", str(tiny_recipe(tmp_path)), f"--set={given}", "--json"])
    assert done.exit_code != 0
    assert words in json.loads(done.stdout)["error"]["message"]
