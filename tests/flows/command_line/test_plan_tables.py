"""What a plan prints and is said to cost, of plans made by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from flows.command_line.plan_tables import cost_of, print_plan
from flows.planning.facts import PhasePlan, RunPlan, ScoringPlan
from flows.planning.trainings import looked_up, of_seeds
from ftlib.costs.prices import Prices
from ftlib.recipe.file import load_recipe
from ftlib.recipe.recipe import Recipe
from ftlib.testing import tiny_recipe

PRICES = Prices(currency="EUR", cpu_core_hour=0.1, gpu_hour={"NVIDIA H100 80GB HBM3": 2.0, "Tesla T4": 0.5})


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tiny_recipe(tmp_path_factory.mktemp("tiny"))

    def with_(compute: str) -> Recipe:
        return load_recipe(path, [f"compute={compute}"])

    return with_


def phase(name: str, seconds: float, **more: Any) -> PhasePlan:
    sizes = {"parameters": 9, "trained": 9, "rows": 9, "tokens": 9, "steps": 9, "rows_at_a_time": 9}
    memory = {"memory": {"weights": 9}, "memory_bytes": 9, "room_bytes": 9, "fits": "yes"}
    return PhasePlan(name=name, tuning="full", precision="fp32", seconds=seconds, **sizes, **memory, **more)


def test_a_named_card_costs_something_also_where_the_recipe_has_no_gpu(recipe: Any) -> None:
    plan = RunPlan(name="tiny", stages=(), phases=(phase("tune", 3600.0),), seconds=3600.0)
    cost = cost_of(plan, recipe("{workers: 2, threads: 1}"), PRICES, 8, "h100-80")
    assert cost is not None
    assert (cost.cpu, cost.gpu, cost.unpriced) == (pytest.approx(0.2), pytest.approx(4.0), ())


def test_a_plan_knows_the_card_of_its_machine(recipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla T4")
    plan = RunPlan(name="tiny", stages=(), phases=(phase("tune", 3600.0),), seconds=3600.0)
    cost = cost_of(plan, recipe("{workers: 0, threads: 1, use_gpu: true}"), PRICES, 8)
    assert cost is not None
    assert (cost.gpu, cost.unpriced) == (pytest.approx(0.5), ())


def test_what_takes_no_time_to_speak_of_is_not_called_done(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = {"parameters": 9, "rows": 9, "tokens": 9, "memory_bytes": 9}
    asked = tuple(ScoringPlan(name=name, seconds=0.0, done=name == "over", **sizes) for name in ("short", "over"))
    phases = (phase("tune", 0.0, done=True), phase("tune-seed1", 0.0))
    print_plan(RunPlan(name="tiny", stages=(), phases=phases, scorings=asked, seconds=0.0))
    lines = {line.split()[1]: line for line in capsys.readouterr().out.splitlines() if " GB" in line}
    assert {name: "done" in line for name, line in lines.items()} == {
        "short": False,
        "over": True,
        "tune": True,
        "tune-seed1": False,
    }
    assert "0 s" in lines["tune-seed1"]


def test_other_seeds_are_to_do_when_their_phase_is_done() -> None:
    tune = phase("tune", 10.0, measured_bytes=7)
    done = {"train tune", "train tune-seed2"}
    planned = [looked_up(one, done) for one in (tune, *of_seeds((1, 2), tune))]
    assert [(one.name, one.seconds, one.done, one.measured_bytes) for one in planned] == [
        ("tune", 0.0, True, 7),
        ("tune-seed1", 10.0, False, None),
        ("tune-seed2", 0.0, True, None),
    ]
