"""Prefect drops unknown keys in silence and renders an unset variable as nothing: so the file is checked here."""

import copy
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from prefect.cli.deploy import _models as models
from prefect.events.schemas.deployment_triggers import DeploymentEventTrigger
from prefect.flows import Flow
from prefect.server.events.actions import RunDeployment
from prefect.utilities.schema_tools.hydration import HydrationContext, hydrate
from pydantic import BaseModel

from ftlib.recipe.file import load_recipe

ROOT = Path(__file__).parents[2]
FILE = ROOT / "deployments" / "prefect.yaml"
VARIABLES = {"REGLAGE_HOME", "REGLAGE_VERSION"}
TRAINS = {"finetune", "retrain"}


@pytest.fixture(scope="module")
def file() -> dict[str, Any]:
    return yaml.safe_load(FILE.read_text())


@pytest.fixture(scope="module", params=yaml.safe_load(FILE.read_text())["deployments"], ids=lambda d: d["name"])
def deployment(request: pytest.FixtureRequest) -> dict[str, Any]:
    return request.param


def flow_of(deployment: dict[str, Any]) -> Flow[Any, Any]:
    module, _, name = deployment["entrypoint"].rpartition(".")
    return getattr(importlib.import_module(module), name)


def unknown(given: dict[str, Any], kind: type[BaseModel], where: str) -> Iterator[str]:
    """Yield what Prefect's own model of a part has no field for, and would drop."""
    names = {field.alias or name for name, field in kind.model_fields.items()}
    yield from (f"{where}.{name}" for name in given if name not in names)


def dropped(file: dict[str, Any]) -> Iterator[str]:
    """Yield every key that Prefect would drop; `definitions` only holds anchors."""
    yield from unknown(
        {name: part for name, part in file.items() if name != "definitions"}, models.PrefectYamlModel, ""
    )
    for deployment in file["deployments"]:
        where = deployment["name"]
        yield from unknown(deployment, models.DeploymentConfig, where)
        yield from unknown(deployment["work_pool"], models.WorkPoolConfig, f"{where}.work_pool")
        yield from unknown(deployment.get("concurrency_limit", {}), models.ConcurrencyLimitSpec, f"{where}.limit")
        for schedule in deployment.get("schedules", ()):
            yield from unknown(schedule, models.RawScheduleConfig, f"{where}.schedule")
        for trigger in deployment.get("triggers", ()):
            yield from unknown(trigger, DeploymentEventTrigger, f"{where}.trigger")


def test_only_keys_that_prefect_knows(file):
    assert list(dropped(file)) == []
    models.PrefectYamlModel.model_validate(file)


@pytest.mark.parametrize(
    ("place", "key"),
    [
        ((), "deployment"),
        (("deployments", 0), "env"),
        (("deployments", 1), "concurency_limit"),
        (("deployments", 1, "concurrency_limit"), "strategy"),
        (("deployments", 1, "triggers", 0), "expects"),
    ],
)
def test_a_key_that_prefect_would_drop_is_seen(place: tuple[Any, ...], key: str):
    broken = part = yaml.safe_load(re.sub(r"\*one_at_a_time", "{limit: 1}", FILE.read_text()))
    for step in place:
        part = part[step]
    part[key] = 1
    assert [name.rpartition(".")[2] for name in dropped(broken)] == [key]


def test_the_four_deployments_are_there(file):
    assert [deployment["name"] for deployment in file["deployments"]] == ["finetune", "retrain", "promote", "rollback"]


def test_only_variables_that_the_readme_names():
    used = set(re.findall(r"\{\{\s*\$(\w+)\s*\}\}", FILE.read_text()))
    readme = (ROOT / "deployments" / "README.md").read_text()
    assert used == VARIABLES
    assert all(f"`{name}`" in readme for name in used)


def test_what_is_no_variable_is_an_event(file):
    """Prefect renders the first kind when the file is applied, the second when an event comes."""
    found = re.findall(r"\{\{\s*(.*?)\s*\}\}", FILE.read_text())
    assert all(text.startswith(("$", "event.", "(event.")) for text in found)
    for deployment in file["deployments"]:
        events = {key for key, part in deployment.items() if re.search(r"\{\{ \(?event\.", str(part))}
        assert events <= {"triggers"}


def test_the_entrypoint_is_a_module_path_to_a_flow_that_takes_the_parameters(deployment):
    flow = flow_of(deployment)
    assert isinstance(flow, Flow)
    assert set(deployment["parameters"]) <= set(flow.parameters.properties)
    asked = {"model": "demo", "version": 1} if deployment["name"] == "promote" else {"model": "demo"}
    asked = {name: value for name, value in asked.items() if name in flow.parameters.required}
    flow.validate_parameters(deployment["parameters"] | asked)


def test_triggers_are_named_and_start_the_flow_with_parameters_it_has(deployment):
    for trigger in deployment.get("triggers", ()):
        made = DeploymentEventTrigger.model_validate(trigger)
        assert made.name
        assert made.expect
        assert set(made.parameters) <= set(flow_of(deployment).parameters.properties)


@pytest.mark.parametrize("payload", [{}, {"recipe": "recipes/other.yaml"}])
def test_an_event_chooses_the_recipe_and_need_not(file, payload: dict[str, str]):
    """Rendered by Prefect's server itself, which wraps what is in the braces."""
    (trigger,) = next(deployment for deployment in file["deployments"] if deployment["name"] == "retrain")["triggers"]
    parameters = copy.deepcopy(trigger["parameters"])
    RunDeployment._upgrade_v1_templates(parameters)
    event = {"event": SimpleNamespace(payload=payload)}
    rendered = hydrate(parameters, HydrationContext(jinja_context=event, render_jinja=True, raise_on_error=True))
    assert rendered == {"recipe": payload.get("recipe", "recipes/fresh_data.yaml")}


def test_the_recipe_it_names_fits_together(deployment):
    if deployment["name"] in TRAINS:
        load_recipe(ROOT / deployment["parameters"]["recipe"])
    else:
        assert "recipe" not in deployment["parameters"]


def test_what_trains_queues_and_its_schedule_waits_to_be_switched_on(deployment):
    if deployment["name"] not in TRAINS:
        assert not {"schedules", "triggers", "concurrency_limit"} & set(deployment)
        return
    assert deployment["concurrency_limit"] == {"limit": 1, "collision_strategy": "ENQUEUE"}
    for schedule in deployment["schedules"]:
        assert (schedule["slug"], schedule["active"], schedule["timezone"]) == ("weekly", False, "UTC")
        assert len(schedule["cron"].split()) == 5


def test_the_version_of_prefect_is_the_locked_one(file):
    locked = re.search(r"^prefect==(.+)$", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    assert locked is not None
    assert file["prefect-version"] == locked[1]
