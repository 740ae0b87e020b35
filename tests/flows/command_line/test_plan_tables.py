"""What a plan prints and is said to cost, of plans made by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from flows.command_line.plan_tables import cost_of
from flows.planning.facts import PhasePlan, RunPlan
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
