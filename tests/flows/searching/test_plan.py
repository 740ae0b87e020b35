"""What `reglage search --plan` says of a whole search, before its first trial and between two of them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from flows.command_line import search_plan
from flows.command_line.main import main
from flows.command_line.search_plan import SearchPlan, plan_search
from flows.run.steps import inputs
from flows.searching.recipes import Searched, study_of
from ftlib.costs.prices import VARIABLE, Prices
from ftlib.evaluation.measured import Estimate
from ftlib.search.study import Study
from ftlib.search.trial import Outcome
from ftlib.workspace import Workspace
from tests.flows.searching.test_recipes import EPOCHS, RATE, asked

TRIED = f"{RATE}=1e-5..1e-2 log"


def planned(path: Path, work: Path, *words: str) -> tuple[dict[str, Any], str]:
    line = ["search", str(path), "--work", str(work), "--plan", "--try", TRIED, *words]
    shown, said = (CliRunner().invoke(main, [*line, *more]) for more in ((), ("--json",)))
    assert (shown.exit_code, said.exit_code) == (0, 0), said.output
    return json.loads(said.stdout), shown.stdout


def test_nothing_is_known_of_the_time_before_the_rows_are_there(tiny_recipe: Path, tmp_path: Path) -> None:
    said, shown = planned(tiny_recipe, tmp_path, "--trials", "4")
    assert (said["trials"], said["over"], said["seconds"], said["cost"]) == (4, 0, None, None)
    assert shown.splitlines() == [
        f"{said['name']}: 4 trials by away/accuracy, none of them over",
        f"  {RATE}: 1e-05 to 0.01, by orders of magnitude",
        "time is known once the data is prepared: reglage plan RECIPE --prepare",
    ]
    assert not list(tmp_path.rglob("trial-*.json"))


def test_the_rest_takes_what_the_measured_trials_took_and_costs_it(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one core; a trial that diverged early says nothing of the next one's time."""
    searched, work = asked(tiny_recipe, TRIED, trials=7), Workspace(tmp_path)
    study = Study(work, searched.recipe.name, study_of(searched, inputs(searched.recipe, work)), searched.search)
    took = (("done", 10.0), ("diverged", 1.0), ("done", 20.0))
    for number, (state, seconds) in enumerate(took):
        value = Estimate(value=0.5, low=0.4, high=0.6) if state == "done" else None
        outcome = Outcome.model_validate({"state": state, "value": value, "work_seconds": seconds})
        study.add(number, {RATE: 10.0 ** (number - 5)}, outcome)
    monkeypatch.setenv(VARIABLE, "{currency: EUR, cpu_core_hour: 36}")
    words = ("--trials", "7", "--set", "compute={workers: 0, threads: 1}")
    said, shown = planned(tiny_recipe, tmp_path, *words)
    assert (said["trials"], said["over"], said["measured_seconds"], said["seconds"]) == (7, 3, 15.0, 60)
    assert said["cost"]["cpu"] == pytest.approx(60 / 3600 * 36)
    assert "3 of them over" in shown
    assert "about 60 s for 4 trials more, one after the other" in shown
    assert "EUR" in shown.splitlines()[-1]
    assert planned(tiny_recipe, tmp_path, *words, "--seed", "1")[0]["over"] == 0  # which is another study


def test_a_field_that_does_not_exist_has_no_plan(tiny_recipe: Path, tmp_path: Path) -> None:
    wrong = EPOCHS.replace("epochs", "epoks")
    line = ["search", str(tiny_recipe), "--work", str(tmp_path), "--plan", "--try", f"{wrong}=1..2", "--json"]
    done = CliRunner().invoke(main, line)
    assert done.exit_code == 2
    assert "did you mean 'epochs'" in json.loads(done.stdout)["error"]["message"]


def test_a_search_costs_the_card_of_its_machine(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla T4")
    plan = SearchPlan(name="tiny", metric="away/accuracy", space={}, trials=2, over=0, seconds=3600.0)
    monkeypatch.setattr(search_plan, "_timed", lambda *_: plan)
    searched = Searched.load(tiny_recipe, ["compute={workers: 2, threads: 1, use_gpu: true}"], [TRIED])
    cost = plan_search(searched, str(tmp_path), Prices(currency="EUR", cpu_core_hour=0, gpu_hour={"Tesla T4": 2})).cost
    assert cost is not None
    assert (cost.gpu, cost.unpriced) == (pytest.approx(4.0), ())
