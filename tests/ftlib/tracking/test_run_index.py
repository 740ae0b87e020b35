"""The index of runs: what is kept, in which order, which are shown, and in what they differ."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ftlib.costs.prices import Usage
from ftlib.errors import RecipeError
from ftlib.evaluation.evaluation import Evaluation
from ftlib.evaluation.measured import Estimate, Measured
from ftlib.report.runs_plot import axes_of, front_of
from ftlib.tracking.run_choice import Condition, chosen, differing, unlike
from ftlib.tracking.run_facts import RunFacts, StageTime, times
from ftlib.tracking.run_index import keep, read_runs
from ftlib.workspace import Workspace
from tasks.runner import StageRun

ACCURACY: tuple[dict[str, str], ...] = ({"kind": "accuracy"},)


def facts(number: int, *, home: float | None = None, old: float = 0.5, **fields: object) -> RunFacts:
    values = {"home": home, "old": old} if home is not None else {}
    cells = {
        name: Measured(
            candidate="end",
            weights="",
            alpha=None,
            evaluation=name,
            split="test",
            rows=1,
            outcomes="",
            metrics={"accuracy": Estimate(value=value, low=value, high=value)},
        )
        for name, value in values.items()
        if value is not None
    }
    roles = {"home": "target", "old": "retained"}
    evaluations = {
        name: Evaluation.model_validate({"dataset": name, "metrics": ACCURACY, "role": roles[name]}) for name in cells
    }
    asked = {"recipe": "tiny", "state": "published", "when": datetime.now(UTC), **fields}
    return RunFacts.model_validate({"number": number, "cells": cells, "evaluations": evaluations, **asked})


def test_runs_are_numbered_as_they_end_whatever_clocks_say(tmp_path: Path):
    work, now = Workspace(tmp_path), datetime.now(UTC)
    for i, run in enumerate(("aaaa", "bbbb", "cccc")):
        keep(work, facts(0, flow_run=run, when=now - timedelta(days=i)))
    assert [(one.number, one.flow_run) for one in read_runs(work).runs] == [(1, "aaaa"), (2, "bbbb"), (3, "cccc")]


def test_a_run_that_is_settled_later_keeps_its_number(tmp_path: Path):
    work = Workspace(tmp_path)
    keep(work, facts(0, flow_run="aaaa", state="waits for approval"))
    keep(work, facts(0, flow_run="bbbb"))
    assert keep(work, facts(0, flow_run="aaaa", state="promoted")).number == 1
    assert [one.state for one in read_runs(work).runs] == ["promoted", "published"]


def test_what_is_damaged_is_named_and_left_out(tmp_path: Path):
    work = Workspace(tmp_path)
    keep(work, facts(0, flow_run="aaaa"))
    (tmp_path / "runs/tiny/facts/000002-bbbb.json").write_text('{"recipe": "ti')
    for name, text in (("torn", "{"), ("other", json.dumps({"evidence": {}})), ("list", "[]")):
        (tmp_path / "runs" / name).mkdir()
        (tmp_path / "runs" / name / "run.json").write_text(text)
    index = read_runs(work)
    assert [one.name for one in index.runs] == ["tiny#1"]
    assert index.damaged == [
        "runs/list/run.json",
        "runs/other/run.json",
        "runs/tiny/facts/000002-bbbb.json",
        "runs/torn/run.json",
    ]


def test_an_empty_place_has_no_runs(tmp_path: Path):
    assert read_runs(Workspace(tmp_path)) == ([], [])


@pytest.mark.parametrize(
    ("where", "left"),
    [
        (["home/accuracy>=0.8"], [1, 3]),
        (["home/accuracy>0.8"], [3]),
        (["home/accuracy >= 0.8", "number<2"], [1]),
        (["state=failed"], [4]),
        (["state!=failed"], [1, 2, 3]),
        (["phases.tune.optimizer.epochs=2"], [2]),
    ],
)
def test_conditions_hold_or_do_not(where, left):
    every = [facts(i, home=value) for i, value in ((1, 0.8), (2, 0.1), (3, 0.9))]
    every[1] = every[1].model_copy(update={"parameters": {"phases.tune.optimizer.epochs": "2"}})
    every.append(facts(4, state="failed"))
    assert [one.number for one in chosen(every, [Condition.read(one) for one in where])] == left


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ("home/accuracy", "give FIELD"),
        ("home/acuracy>0", "no run has 'home/acuracy'"),
        ("home/accuracy>high", "so give one"),
        ("state>failed", "compare it by ="),
    ],
)
def test_a_condition_that_cannot_be_is_refused(where, says):
    with pytest.raises(RecipeError, match=says):
        chosen([facts(1, home=0.5)], [Condition.read(where)])


def test_orders_keep_every_run_and_put_those_without_the_field_last():
    every = [facts(i, home=value) for i, value in ((1, 0.5), (2, None), (3, 0.9), (4, 0.1))]
    assert [one.number for one in chosen(every, [], sort="home/accuracy")] == [4, 1, 3, 2]
    assert [one.number for one in chosen(every, [], sort="-home/accuracy")] == [3, 1, 4, 2]


def test_recipes_differ_where_they_are_not_as_most_are():
    same, other = {"seed": "0", "gone": "1"}, {"seed": "7"}
    every = [facts(i, parameters=fields) for i, fields in enumerate((same, other, same))]
    assert differing(every) == [{}, {"seed": "7", "gone": "–"}, {}]
    another = facts(3, recipe="another", parameters={"wholly": "other"})
    assert differing([*every, another]) == [{}, {"seed": "7", "gone": "–"}, {}, {}]  # each beside its own recipe's


def test_a_difference_of_two_recipes_says_something():
    ours = {"name": "a", "publish.name": "x", "publish.to.path": "p", "tuning.kind": "lora", "tuning.rank": "8"}
    theirs = {"name": "b", "publish.name": "y", "publish.to.path": "q", "tuning.kind": "ia3", "tuning.places": "null"}
    assert unlike(ours, theirs) == {"tuning.kind": ("lora", "ia3"), "tuning.rank": ("8", "–")}
    assert unlike(theirs, ours) == {"tuning.kind": ("ia3", "lora")}  # the rank belongs to what is not there
    ours = {"gates": "[]", "phases.tune.seed": "0", "stop": "null", "rate": "0.1"}
    theirs = {
        "gates.0.at_least": "0.4",
        "phases.tune.seed": "0",
        "phases.head.seed": "0",
        "stop.after": "3",
        "rate": "0.2",
    }
    assert unlike(ours, theirs) == {
        "rate": ("0.1", "0.2"), "gates.0.at_least": ("–", "0.4"), "phases.head": ("–", "…"), "stop.after": ("–", "3"),
    }  # fmt: skip


def test_the_front_is_what_nothing_beats():
    values = [(0.9, 0.1), (0.8, 0.5), (0.8, 0.4), (0.5, 0.9), (0.4, 0.9), (0.9, 0.1), (0.1, 0.2)]
    every = [facts(i, home=home, old=old) for i, (home, old) in enumerate(values)]
    axes = axes_of(every)
    assert axes is not None
    beaten = {
        i for i, (x, y) in enumerate(values) if any((a >= x and b >= y) and (a > x or b > y) for a, b in values)
    }  # by its definition, each against each
    assert {one.number for one in front_of(every, axes)} == {*range(len(values))} - beaten


def test_a_flow_run_that_goes_on_after_a_wait_costs_what_both_attempts_did():
    first = facts(1, stages=[_took("ingest", 2.0), _took("train tune", 9.0)], usage=Usage(core_hours=3.0))
    again = facts(1, stages=[_took("train tune", 0.0), _took("register", 1.0)], usage=Usage(core_hours=0.5))
    both = again.on_top_of(first)
    assert {stage.stage: stage.seconds for stage in both.stages} == {"ingest": 2.0, "train tune": 9.0, "register": 1.0}
    assert both.usage == Usage(core_hours=3.5)
    assert both.work_seconds == first.work_seconds + again.work_seconds


def _took(stage: str, seconds: float) -> StageTime:
    return StageTime(stage=stage, seconds=seconds, done_before=not seconds)


def test_earlier_attempts_seconds_are_not_charged_again():
    resumed = StageRun(stage="train tune", fingerprint="", done_before=False, seconds=3.0, work_seconds=100.0)
    done = StageRun(stage="train probe", fingerprint="", done_before=True, seconds=1.0, work_seconds=0.0)
    assert [one.seconds for one in times([resumed, done])] == [3.0, 0.0]
